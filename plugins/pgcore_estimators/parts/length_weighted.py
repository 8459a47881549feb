"""Rewards against their group's mean, weighted by lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pgcore.returns import leave_one_out_mean, weighted_centre
from pgcore.validation.arrays import Array
from pgcore.validation.fields import choice
from pgcore_estimators.parts.group_relative import GroupRelative

__all__ = ["LengthWeighted"]


@dataclass(frozen=True)
class LengthWeighted(GroupRelative):
    """A = R - sum(T R) / sum(T) over a group's episodes of reward R and T steps.

    The variance-minimising baseline where an episode's squared score grows with its length.

    Attributes:
        scale: See `GroupRelative`; by default "none".
        eps, ddof, leave_one_out, lone, group, count_masked: See `GroupRelative`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    scale: Annotated[str, choice("group", "batch", "none")] = "none"
    name = "length_weighted"
    sources = ("Hao et al. 2025, eq. 8, arXiv:2505.23585",)

    def centred(self, rewards: Array, lengths: Array) -> Array:
        """See `Centred.centred`."""
        if self.leave_one_out:
            return rewards - leave_one_out_mean(rewards, lengths)
        return weighted_centre(rewards, lengths)
