"""The clipped ratio as a constant weight of the score."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pgcore.parts import Objective
from pgcore.parts.objectives import Slope
from pgcore.validation.arrays import Array
from pgcore.validation.fields import PositiveOrInfinite
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.terms import log_bounds, log_ratio_of_gain

__all__ = ["ClippedWeight"]


@dataclass(frozen=True)
class ClippedWeight(Objective):
    """The gain whose gradient is c A times the score, with c = clip(r, 1 - low, 1 + high).

    gain = c A (1 + log r - log c): r A within the bounds, a straight line in log pi beyond them.

    Attributes:
        low: r is held above 1 - low; 1 or more is no bound.
        high: r is held below 1 + high.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    low: PositiveOrInfinite = 1.0  # no lower bound, as in MiniMax 2025
    high: PositiveOrInfinite = 0.2
    name = "cispo"
    sources = ("MiniMax 2025, eqs. 4 and 5, arXiv:2506.13585",)

    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """See `Objective.gain`."""
        if self._bounds[1] == math.inf:
            log_ratio = log_ratio_of_gain(xp, log_ratio, advantage)
        held = xp.clip(log_ratio, *self._bounds)
        return advantage * xp.exp(held) * (1.0 + log_ratio - held)

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Objective.slope`."""
        if self._bounds[1] == math.inf:
            log_ratio = log_ratio_of_gain(host, log_ratio, advantage)
        return advantage * np.exp(np.clip(log_ratio, *self._bounds)), None

    def clipped(self, log_ratio: Array, advantage: Array) -> Array:
        """See `Objective.clipped`: on either side, whichever way the advantage pushes."""
        low, high = self._bounds
        return (log_ratio < low) | (log_ratio > high)

    @cached_property
    def _bounds(self) -> tuple[float, float]:
        return log_bounds(self.low, self.high)
