"""The best episode of a group alone."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore.returns import best_over_second
from pgcore.validation.arrays import Array
from pgcore_estimators.parts.grouped import Scaled

__all__ = ["BestAlone"]


@dataclass(frozen=True)
class BestAlone(Scaled):
    """A = (R_1st - R_2nd) / (std + eps) for a group's best episode, and 0 for the others.

    The best of k answers less the best of those without it, the gradient of the largest reward of
    a group. Of equally good ones none is the best.

    Attributes:
        scale: The standard deviation: the "group"'s, that of the "batch"'s rewards, or "none" for 1.
        eps: Added to the deviation.
        ddof: The deviation divides by the number of episodes less this.
        lone, group, count_masked: See `GroupRelative`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    name = "best_alone"
    sources = ("Tang et al. 2025, arXiv:2503.19595",)

    def centred(self, rewards: Array, lengths: Array) -> Array:
        """See `Centred.centred`."""
        return best_over_second(rewards)
