"""The ratio, with the log ratios of single steps limited before the level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore.parts import Objective
from pgcore.parts.objectives import Slope
from pgcore.validation.arrays import Array
from pgcore.validation.fields import PositiveOrInfinite
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.terms import log_ratio_of_gain

__all__ = ["LimitedRatio"]


@dataclass(frozen=True)
class LimitedRatio(Objective):
    """gain = A exp(level of l_t), l_t = log r_t limited to the bound that A pushes it towards.

    The limit is min(l, high) where A >= 0 and max(l, -low) where A < 0. At the level `sequence` it
    is A times the geometric mean of the limited ratios.

    Attributes:
        low: Of the log ratio, nats.
        high: Of the log ratio, nats.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    # The bounds exp(-0.4) and exp(0.4) of Zhao et al. 2025.
    low: PositiveOrInfinite = 0.4
    high: PositiveOrInfinite = 0.4
    name = "gmpo"
    sources = ("Zhao et al. 2025, arXiv:2507.20673",)

    def limit(self, xp: ArrayNamespace, log_ratio: Native, advantage: Native) -> Native:
        """See `Objective.limit`."""
        infinite, gaining = xp.full_like(advantage, math.inf), advantage >= 0
        least, most = (
            xp.where(gaining, -infinite, -self.low),
            xp.where(gaining, self.high, infinite),
        )
        return xp.clip(log_ratio, least, most)

    def limited(self, log_ratio: Array, advantage: Array) -> Array:
        """See `Objective.limited`."""
        return np.where(advantage >= 0, log_ratio > self.high, log_ratio < -self.low)

    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """See `Objective.gain`."""
        return advantage * xp.exp(log_ratio_of_gain(xp, log_ratio, advantage))

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Objective.slope`."""
        return self.gain(host, log_ratio, log_prob, advantage), None
