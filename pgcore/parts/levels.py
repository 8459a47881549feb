"""Levels: the ratio that an objective sees, from the ratios of single steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pgcore.parts.part import Part
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Level"]


class Level(Part, ABC):
    """A log ratio for each step.

    Attributes:
        registered_as, noun: See `Part`.
        sees_episodes: Whether it depends on the step's whole episode; minibatches are then of
            episodes.
        changes: Whether it returns anything but the step's own log ratio, so that an objective
            without a ratio makes no sense with it.
        averages: Whether it divides by the number of the episode's steps.
        couples_steps: See `Estimator.couples_steps`; of a level that sees episodes.
    """

    registered_as = "levels"
    noun = "level"
    sees_episodes: ClassVar[bool] = True
    changes: ClassVar[bool] = True
    averages: ClassVar[bool] = False
    couples_steps: ClassVar[bool] = True

    @abstractmethod
    def log_ratio(
        self, xp: ArrayNamespace, log_ratio: Native, log_prob: Native, episode: Native
    ) -> Native:
        """Return [B] log ratios, nats.

        Args:
            xp: The backend's array functions.
            log_ratio: [B] of single steps, nats, limited by the objective.
            log_prob: [B] log pi, nats.
            episode: [B] integer, as in `Estimator.surrogate`; None where it sees no episodes.
        """

    @abstractmethod
    def pull(self, slope: Array, episode: Any) -> tuple[Array | None, Array | None]:
        """Return the derivatives of an episode's sum by the arguments of each step, [B] each.

        Args:
            slope: [B] derivatives of a step's summand by the result of `log_ratio`.
            episode: See `log_ratio`.

        Returns:
            By the log ratio and by the log-probability; None stands for zeros.
        """
