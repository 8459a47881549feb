"""Advantages: signals from rewards, values and groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate, OffPolicy
from pgcore.parts.part import Part
from pgcore.validation.arrays import Array

__all__ = ["Advantage"]


class Advantage(Part, ABC):
    """A, one number a step, and where there is a critic its target R.

    The properties may depend on the options.

    Attributes:
        registered_as, noun: See `Part`.
        unbiased: Whether the score times A has the exact gradient as its expectation, for whole
            episodes from the current policy and a sum over each trajectory's steps.
        off_policy: See `Claims`; of another policy's episodes, with A alone correcting for it, under an
            objective that reads no ratio.
        needs_critic: Whether it reads the critic's values.
        gives_return: Whether it gives a critic its target.
        whole_episodes: Whether every episode must be whole.
    """

    registered_as = "advantages"
    noun = "advantage"

    @property
    def unbiased(self) -> bool:
        """See the class."""
        return False

    @property
    def off_policy(self) -> OffPolicy:
        """See the class."""
        return "none"

    @property
    def needs_critic(self) -> bool:
        """See the class."""
        return False

    @property
    def gives_return(self) -> bool:
        """See the class; by default those with a critic do."""
        return self.needs_critic

    @property
    def whole_episodes(self) -> bool:
        """See the class; by default those without a critic, which cannot bootstrap."""
        return not self.needs_critic

    @abstractmethod
    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """Return `advantage` [B] and, if it gives a target, `return_` [B], float64, reward units.

        `discount` [B], if it is there, multiplies A after A is normalised over the batch.

        Args:
            batch: The episodes.
            rewards: [B] float64. Rewards less the penalties in them, in place of `batch.rewards`.
            evaluate: See `Estimator.signals`.
        """
