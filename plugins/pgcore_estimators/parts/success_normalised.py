"""Rewards against their group's mean, divided by that mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pgcore.validation.arrays import Array
from pgcore_estimators.parts.group_relative import GroupRelative

__all__ = ["SuccessNormalised"]


@dataclass(frozen=True)
class SuccessNormalised(GroupRelative):
    """A = (R - mean) / (mean + eps) of the group's rewards, which are at least 0.

    With rewards of 0 and 1 the expected gradient approaches that of the logarithm of the success
    rate as groups grow. A group whose mean is not above 0 has no success to learn from: A = 0.

    Attributes:
        scale: The divisor: the mean of the "group", that of the "batch", or "none" for 1.
        eps: Added to the mean.
        ddof: Not read.
        leave_one_out, lone, group, count_masked: See `GroupRelative`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    name = "success_normalised"
    sources = ("Tajwar et al. 2026, arXiv:2602.02710",)

    def spread(self, rewards: Array) -> float:
        """See `Scaled.spread`: the mean; infinite without one above 0, which leaves A = 0."""
        mean = float(np.mean(rewards)) if len(rewards) else 0.0
        return mean if mean > 0 else math.inf
