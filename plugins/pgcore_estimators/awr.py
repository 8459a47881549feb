"""Advantage-weighted regression: log-likelihood weighted by exponentiated advantages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Claims, Evaluate
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number, Positive, UnitInterval
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_estimators.critic_loss import CriticLoss
from pgcore_estimators.terms import (
    Ddof,
    Normalisation,
    gae_and_returns,
    normalise_advantages,
)

__all__ = ["AWR"]


@dataclass(frozen=True)
class AWR(CriticLoss):
    """Advantage-weighted regression: supervised learning of good actions from any policy's episodes.

    loss = mean over steps of -min(exp(A_t / beta), max_weight) log pi(a_t given s_t)
           + c_v (V(s_t) - R_t)^2 / 2

    A = R - V is held constant, with R the TD(lambda) return.

    Attributes:
        temperature: beta; positive, reward units.
        max_weight: Largest weight; positive.
        gamma: Discount in [0, 1].
        gae_lambda: Of the TD(lambda) return, in [0, 1].
        value_coefficient: c_v, of the value loss.
        normalise: "none", or "batch" to give advantages mean 0 and standard deviation 1 first.
        ddof: Of that standard deviation.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    temperature: Positive = 1.0
    max_weight: Positive = 20.0  # of Peng et al. 2019
    gamma: UnitInterval = 0.99
    gae_lambda: UnitInterval = 0.95
    value_coefficient: Number = 0.5
    normalise: Normalisation = "none"
    ddof: Ddof = 1
    name: ClassVar[str] = "awr"
    sources: ClassVar[tuple[str, ...]] = ("Peng et al. 2019, eqs. 4 and 5, arXiv:1910.00177",)

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="limited", needs_critic=True, discrete_only=False)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `weight` and the critic's target `return_`."""
        a_t, g_t = gae_and_returns(batch, evaluate, self.gamma, self.gae_lambda)
        scaled = normalise_advantages(batch, a_t, self.normalise, self.ddof) / self.temperature
        # Limited before the exponential is taken, which then cannot overflow.
        return {"weight": np.exp(np.minimum(scaled, math.log(self.max_weight))), "return_": g_t}

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native,
        value: Native,
        weight: Native,
        return_: Native,
    ) -> Native:
        """See `Estimator.surrogate`: -log pi w + c_v (V - R)^2 / 2."""
        return self.add_auxiliary_terms(-log_prob * weight, value, return_)

    def cotangents(
        self, *, log_prob: Array, value: Array, weight: Array, return_: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        # The weight is held constant: no derivative goes through the advantage into the critic.
        return {"log_prob": -weight} | self.auxiliary_cotangents(value, return_)

    def metrics(self, *, weight: Array, **inputs: Array) -> dict[str, float]:
        """See `Estimator.metrics`: `mean_weight`, without unit."""
        # Close to `max_weight`, the temperature is too low for the advantages' scale.
        return {"mean_weight": float(weight.mean())}
