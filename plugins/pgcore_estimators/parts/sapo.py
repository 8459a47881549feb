"""A soft gate in place of a clip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore.parts import Objective
from pgcore.parts.objectives import Slope
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Positive
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host

__all__ = ["SoftGate"]

# The argument, our choice, from which a sigmoid is 1 and its derivative 0 in float64, with room.
SATURATED = 800.0


@dataclass(frozen=True)
class SoftGate(Objective):
    """gain = A (4 / tau) sigmoid(tau (r - 1)), whose derivative at r = 1 is A.

    Attributes:
        tau_positive: tau where A >= 0.
        tau_negative: tau where A < 0.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    # Temperatures of Gao et al. 2025.
    tau_positive: Positive = 1.0
    tau_negative: Positive = 1.05
    name = "sapo"
    sources = ("Gao et al. 2025, arXiv:2511.20347",)

    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """See `Objective.gain`."""
        tau, bound = self._by_sign(xp, advantage)
        # Beyond the bound the gate is 1 in every dtype; r may overflow there.
        ratio = xp.exp(xp.where(log_ratio > bound, bound, log_ratio))
        return advantage * (4.0 / tau) * xp.sigmoid(tau * (ratio - 1.0))

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Objective.slope`: 4 A r g (1 - g), with g the gate."""
        tau, bound = self._by_sign(host, advantage)
        ratio = np.exp(np.where(log_ratio > bound, bound, log_ratio))
        argument = tau * (ratio - 1.0)
        slope = 4.0 * advantage * ratio * host.sigmoid(argument) * host.sigmoid(-argument)
        return np.where(log_ratio > bound, 0.0, slope), None

    def _by_sign(self, xp: ArrayNamespace, advantage: Native) -> tuple[Native, Native]:
        """Return [B] tau, and the log ratio at which the gate is 1."""
        positive, negative = self.tau_positive, self.tau_negative
        gaining = advantage >= 0
        tau = xp.where(gaining, xp.full_like(advantage, positive), negative)
        bound = xp.full_like(advantage, math.log1p(SATURATED / positive))
        return tau, xp.where(gaining, bound, math.log1p(SATURATED / negative))
