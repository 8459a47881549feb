"""Objectives: a step's gain from its ratio, or its log-probability, and its advantage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pgcore.parts.part import Part
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Objective", "Slope"]

# Derivatives by the log ratio and by the log-probability; None stands for zeros.
Slope = tuple[Array | None, Array | None]


class Objective(Part, ABC):
    """A gain, to be maximised.

    A level (`pgcore.parts.levels`) makes the log ratio of `gain` from the limited log ratios of
    single steps: gain(level(limit(log pi - log mu))).

    Attributes:
        registered_as, noun: See `Part`.
        references: Those of `reads` that are [B] log-probabilities, of which the gain makes ratios of
            its own; 0 where the gain weighs 0, as log pi is there.
        reads_ratio: Whether it reads the log ratio; without, `gain` gets None for it.
        unbiased: Whether its derivative is the score times A at the policy of the episodes, and so
            leaves an unbiased advantage unbiased.
    """

    registered_as = "objectives"
    noun = "objective"
    formula = "gain"
    references: ClassVar[tuple[str, ...]] = ()
    reads_ratio: ClassVar[bool] = True
    unbiased: ClassVar[bool] = False

    def limit(self, xp: ArrayNamespace, log_ratio: Native, advantage: Native) -> Native:
        """Return [B] log ratios of single steps as the level gets them; by default unchanged.

        Args:
            xp: The backend's array functions.
            log_ratio: [B] log pi - log mu, nats.
            advantage: [B] A.
        """
        return log_ratio

    def limited(self, log_ratio: Array, advantage: Array) -> Array | None:
        """Return [B] bool, True where `limit` is constant; None, the default, without a limit.

        The derivative of `limit` by its log ratio is 0 there and 1 elsewhere. With a limit, None has
        the cotangents derived, as in `slope`.
        """
        return None

    @abstractmethod
    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """Return [B] gains.

        Args:
            xp: The backend's array functions.
            log_ratio: [B] of the level, nats; None where the objective reads no ratio.
            log_prob: [B] log pi, nats.
            advantage: [B] A.
            inputs: [B, ...] those in `reads`, by name.
        """

    def slope(
        self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any
    ) -> Slope | None:
        """Return the derivatives of `gain` by log ratio and by log-probability, [B] each.

        None, the default, has the cotangents of the whole loss derived; see `Estimator.cotangents`.

        Args:
            log_ratio: See `gain`; NumPy arrays of any float dtype, as the results.
            log_prob: See `gain`.
            advantage: See `gain`.
            inputs: See `gain`.
        """
        return None

    def clipped(self, log_ratio: Array, advantage: Array) -> Array | None:
        """Return [B] bool, True where the gain is clipped; None, the default, without a clip.

        Args:
            log_ratio: [B] of the level, nats.
            advantage: [B] A.
        """
        return None
