"""Penalties: terms that keep the policy near a reference, in the loss or in the reward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.parts.part import Part
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Divergence", "Penalty"]

# KL(reference, pi), KL(pi, reference), or neither; by the names of their quantities.
Divergence = Literal["none", "kl", "reverse_kl"]


class Penalty(Part, ABC):
    """A penalty of each step, times its coefficient.

    Its term is a function of the names in `reads`, such as `log_prob` and `reference_log_prob`.

    Attributes:
        registered_as, noun: See `Part`.
        coefficient: The factor, which `term`, `slope` and `reward` include; a penalty of 0 is left
            out of the loss.
        in_reward: Whether it lowers the rewards, and adds no term.
        gradient_of: The divergence whose gradient is the expected derivative of the penalty, over
            episodes of the current policy; "none" is no claim. For a term of the loss, the gradient
            is of the divergence at each visited state. For a penalty in the reward, it is of the sum
            over an episode, whose states depend on the policy too.
        off_policy: Whether the same is true of another policy's episodes: with their states for a
            term of the loss, with weights of whole episodes for a penalty in the reward.
    """

    registered_as = "penalties"
    noun = "penalty"
    formula = "term"
    coefficient: float

    @property
    def in_reward(self) -> bool:
        """See the class."""
        return False

    @property
    def gradient_of(self) -> Divergence:
        """See the class."""
        return "none"

    @property
    def off_policy(self) -> bool:
        """See the class."""
        return False

    @abstractmethod
    def term(self, xp: ArrayNamespace, **inputs: Native) -> Native:
        """Return [B] terms of the loss, nats times the coefficient.

        Args:
            xp: The backend's array functions.
            inputs: [B, ...] quantities and signals, those in `reads`.
        """

    def slope(self, **inputs: Any) -> Mapping[str, Array] | None:
        """Return the derivatives of `term` by the quantities among its inputs, [B, ...] by name.

        None, the default, has the cotangents of the whole loss derived.

        Args:
            inputs: See `term`; NumPy arrays of any float dtype, as the results.
        """
        return None

    def adapted(self, metrics: Mapping[str, float]) -> Penalty:
        """Return the penalty for the next update, given this one's metrics; itself by default."""
        return self

    def reward(self, batch: Batch, evaluate: Evaluate) -> Array:
        """Return [B] float64, the amount by which a penalty in the reward lowers each reward.

        Args:
            batch: The episodes.
            evaluate: See `Estimator.signals`.
        """
        raise NotImplementedError
