"""The score, weighed by a gamma density of the ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pgcore.parts import Objective
from pgcore.parts.objectives import Slope
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Positive
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host

__all__ = ["GammaWeight"]

# The bounds of log w, nats; beyond either the weight is 0 in float32.
LOG_LOW, LOG_HIGH = math.log(1e-8), 20.0


@dataclass(frozen=True)
class GammaWeight(Objective):
    """gain = sg(phi(w)) A log pi with phi(w) = e^lambda w^k e^(-lambda w), which is 1 at w = 1.

    w is the level's ratio, of the whole sequence at the level `sequence_product`, its logarithm held
    in [log 1e-8, 20]; sg holds the weight constant. k and lambda differ by the sign of A.

    Attributes:
        k_positive: Where A >= 0.
        lambda_positive: Where A >= 0.
        k_negative: Where A < 0.
        lambda_negative: Where A < 0.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    k_positive: Positive = 2.0
    lambda_positive: Positive = 3.0
    k_negative: Positive = 3.0
    lambda_negative: Positive = 2.0
    name = "vespo"
    sources = ("VESPO 2026, arXiv:2602.10693",)

    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """See `Objective.gain`."""
        return xp.stop_gradient(self._weight(xp, log_ratio, advantage)) * advantage * log_prob

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Objective.slope`."""
        return None, self._weight(host, log_ratio, advantage) * advantage

    def clipped(self, log_ratio: Array, advantage: Array) -> Array:
        """See `Objective.clipped`: where log w is held at a bound."""
        return (log_ratio < LOG_LOW) | (log_ratio > LOG_HIGH)

    def _weight(self, xp: Any, log_ratio: Native, advantage: Native) -> Native:
        """Return [B] phi(w)."""
        log_w, gaining = xp.clip(log_ratio, LOG_LOW, LOG_HIGH), advantage >= 0
        k = xp.where(gaining, xp.full_like(advantage, self.k_positive), self.k_negative)
        rate = xp.where(
            gaining, xp.full_like(advantage, self.lambda_positive), self.lambda_negative
        )
        return xp.exp(rate * (1.0 - xp.exp(log_w)) + k * log_w)
