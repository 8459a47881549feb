"""The exponentiated advantage as a weight of the log-likelihood."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore.parts import Objective
from pgcore.parts.objectives import Slope
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Positive
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Exponential"]


@dataclass(frozen=True)
class Exponential(Objective):
    """gain = min(exp(A / beta), max_weight) log pi, with the weight held constant.

    Attributes:
        temperature: beta; positive, reward units.
        max_weight: Largest weight; positive.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    temperature: Positive = 1.0
    max_weight: Positive = 20.0  # of Peng et al. 2019
    reads_ratio = False
    name = "exponential"
    sources = ("Peng et al. 2019, eqs. 4 and 5, arXiv:1910.00177",)

    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """See `Objective.gain`."""
        return self._weight(xp, advantage) * log_prob

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Objective.slope`."""
        return None, self._weight(np, advantage)

    def metrics(self, inputs: Mapping[str, Array]) -> dict[str, float]:
        """See `Part.metrics`: `mean_weight`, without unit."""
        # Close to `max_weight`, the temperature is too low for the advantages' scale.
        return {"mean_weight": float(self._weight(np, inputs["advantage"]).mean())}

    def _weight(self, xp: Any, advantage: Native) -> Native:
        # Limited before the exponential is taken, which then cannot overflow.
        return xp.exp(xp.minimum(advantage / self.temperature, math.log(self.max_weight)))
