"""Rewards against their group's mean, divided by the share of rewards that are not 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Positive, choice
from pgcore_estimators.parts.group_relative import GroupRelative

__all__ = ["GroupPolicyGradient"]


@dataclass(frozen=True)
class GroupPolicyGradient(GroupRelative):
    """A = (N / N_1) (R - mean) / F, with N_1 of the batch's N episodes having a reward other than 0.

    Attributes:
        scale: See `GroupRelative`; by default "none".
        norm: F, positive.
        eps, ddof, leave_one_out, lone, group, count_masked: See `GroupRelative`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    scale: Annotated[str, choice("group", "batch", "none")] = "none"
    norm: Positive = 1.0
    name = "gpg"
    sources = ("Chu et al. 2025, eq. 7, arXiv:2504.02546",)

    @property
    def unbiased(self) -> bool:
        """See `Advantage`; the factor depends on the episode's own reward."""
        return False

    def relative(self, rewards: Array, batch: Batch) -> Array:
        """See `Scaled.relative`."""
        counted = rewards[self.counted(batch)]
        # Without a reward other than 0 all differences are 0 as well.
        factor = len(counted) / max(np.count_nonzero(counted), 1)
        return factor * super().relative(rewards, batch) / self.norm
