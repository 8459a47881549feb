"""The optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pgcore as pg
from pgcore.interfaces.formula import LearningRate
from pgcore.validation.fields import Decay, NonNegative

__all__ = ["Lion"]


@dataclass(frozen=True)
class Lion(pg.OptimizerSpec):
    """Steps along the signs of a momentum.

    c <- beta1 m + (1 - beta1) g
    parameter <- parameter - rate (sign(c) + weight_decay parameter)
    m <- beta2 m + (1 - beta2) g

    Attributes:
        beta1: The momentum's share of the direction, in [0, 1).
        beta2: Decay of the momentum, in [0, 1).
        weight_decay: At least 0.

    Source: Chen et al. 2023, algorithm 2, arXiv:2302.06675.
    """

    # A tenth of Adam's rate, and the paper's other defaults.
    learning_rate: LearningRate = 1e-4
    beta1: Decay = 0.9
    beta2: Decay = 0.99
    weight_decay: NonNegative = 0.0
    name = "lion"
    slots = ("momentum",)

    def update(
        self, xp: Any, parameter: Any, gradient: Any, slots: Mapping[str, Any], *scalars: Any
    ) -> tuple[Any, dict[str, Any]]:
        """Return the new parameter and the new slots; every backend runs this formula."""
        (rate,) = scalars
        direction = self.beta1 * slots["momentum"] + (1.0 - self.beta1) * gradient
        # Two choices, since the sign of 0 is 0.
        falling = xp.where(direction < 0.0, xp.full_like(direction, -1.0), 0.0)
        sign = xp.where(direction > 0.0, xp.full_like(direction, 1.0), falling)
        momentum = self.beta2 * slots["momentum"] + (1.0 - self.beta2) * gradient
        return parameter - rate * (sign + self.weight_decay * parameter), {"momentum": momentum}
