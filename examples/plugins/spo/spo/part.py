"""The part: an objective, which makes the gain of a step from its ratio and its advantage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore.parts import Objective
from pgcore.parts.objectives import Slope
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Positive

__all__ = ["Spo"]


@dataclass(frozen=True)
class Spo(Objective):
    """The ratio times the advantage, less a quadratic penalty of the ratio.

    gain = r A - |A| (r - 1)^2 / (2 epsilon)

    The gain is largest at r = 1 + epsilon where A > 0, and at r = 1 - epsilon where A < 0. Beyond
    that bound its gradient leads back, where that of a clip is 0.

    Attributes:
        epsilon: Distance of the bound from a ratio of 1; positive, no unit.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    epsilon: Positive = 0.2
    name = "spo"
    sources = ("Xie et al. 2024, arXiv:2401.16025",)

    def gain(self, xp: Any, log_ratio: Any, log_prob: Any, advantage: Any, **inputs: Any) -> Any:
        """Return [B] gains, written with `xp` and operators alone; every backend differentiates it."""
        # Without an advantage the gain is 0; zero times a ratio that overflows would be NaN.
        change = xp.exp(xp.where(advantage == 0, 0.0, log_ratio)) - 1.0
        # The formula above in other brackets, since infinity less infinity would be NaN.
        return advantage + change * (advantage - xp.abs(advantage) * change / (2.0 * self.epsilon))

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """Return the derivatives by log ratio and by log-probability, for the NumPy backend.

        The method is optional. Without it the derivative is derived from the gain.
        """
        ratio = np.exp(np.where(advantage == 0, 0.0, log_ratio))
        penalty = np.abs(advantage) * (ratio - 1.0) / self.epsilon
        return ratio * (advantage - penalty), None

    def clipped(self, log_ratio: Array, advantage: Array) -> Array:
        """Return [B] bool, True where the gradient leads back; the metric `clip_fraction` counts it."""
        change = np.exp(log_ratio) - 1.0
        return np.where(advantage >= 0, change > self.epsilon, change < -self.epsilon)
