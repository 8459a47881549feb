"""The clipped ratio, with bounds of its own on either side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np

from pgcore.parts import Objective
from pgcore.parts.objectives import Slope
from pgcore.validation.arrays import Array
from pgcore.validation.fields import PositiveOrInfinite, Rule
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.terms import log_bounds, log_ratio_of_gain

__all__ = ["AboveOne", "Clip"]

AboveOne = Annotated[float, Rule[float]("a number above 1", lambda x: x > 1, "give a larger one")]


@dataclass(frozen=True)
class Clip(Objective):
    """gain = min(r A, clip(r, 1 - low, 1 + high) A), a ratio at a bound counting as unclipped.

    With `dual`, a gain of A < 0 is at least dual A: the ratio counts as `dual` above it. With
    `delta`, the unclipped ratio is at most delta: gain = min(min(r, delta) A, clip(r) A).
    Beyond the bound of its side a step has no gradient.

    Attributes:
        low: r is held above 1 - low; 1 or more is no bound.
        high: r is held below 1 + high.
        dual: The largest ratio of a negative advantage, above 1; None is no bound.
        delta: The largest unclipped ratio, above 1; None is no bound.

    Raises:
        EstimatorError: a field has a value it cannot take.

    Example:
        >>> pg.estimator("policy_gradient", objective=pg.Clip(0.2, 0.28, dual=3.0)).quantities
        ('log_prob', 'value')
    """

    low: PositiveOrInfinite = 0.2
    high: PositiveOrInfinite = 0.2
    dual: AboveOne | None = None
    delta: AboveOne | None = None
    name = "clip"
    sources = (
        "Schulman et al. 2017, eq. 7, arXiv:1707.06347",
        "Ye et al. 2020, arXiv:1912.09729 (dual)",
        "Prime Intellect 2025, arXiv:2505.07291 (delta)",
    )

    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """See `Objective.gain`."""
        low, high, losing_high = self._bounds
        if self._unbounded:
            log_ratio = log_ratio_of_gain(xp, log_ratio, advantage)
        # Limiting the log ratio first keeps the exponential from overflowing on a clipped branch.
        gaining = advantage >= 0
        held = xp.where(~gaining & (log_ratio < low), low, log_ratio)
        if losing_high is not None:
            held = xp.where(~gaining & (log_ratio > losing_high), losing_high, held)
        held = xp.where(gaining & (log_ratio > high), high, held)
        return advantage * xp.exp(held)

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Objective.slope`."""
        # exp(-inf) is exactly 0: the clipped branch takes no gradient, and no exponential overflows.
        clipped = self.clipped(log_ratio, advantage)
        if self._unbounded:
            log_ratio = log_ratio_of_gain(host, log_ratio, advantage)
        return advantage * np.exp(np.where(clipped, -math.inf, log_ratio)), None

    def clipped(self, log_ratio: Array, advantage: Array) -> Array:
        """See `Objective.clipped`: beyond the bound of the advantage's side."""
        low, high, losing_high = self._bounds
        below = log_ratio < low
        if losing_high is not None:
            below |= log_ratio > losing_high
        return np.where(advantage >= 0, log_ratio > high, below)

    @cached_property
    def _bounds(self) -> tuple[float, float, float | None]:
        """The log ratio's bounds: the lower, and the upper of gains and of losses."""
        low, high = log_bounds(self.low, self.high)
        bounds: list[float] = []
        if self.delta is not None:
            # The clipped ratio is the larger of the two where delta is below 1 + high.
            delta = math.log(self.delta)
            bounds.append(max(delta, high))
            high = min(delta, high)
        if self.dual is not None:
            bounds.append(math.log(self.dual))
        return low, high, min(bounds, default=None)

    @cached_property
    def _unbounded(self) -> bool:
        """Whether the ratio of a gain has no upper bound."""
        return self._bounds[1] == math.inf
