"""Advantage-weighted regression: log-likelihood weighed by exponentiated advantages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.checks import number, one_of, positive, set_field, unit_interval
from pgcore.errors import EstimatorError
from pgcore.estimator import Claims, Estimator, Evaluate
from pgcore.namespace import ArrayNamespace, Native
from pgcore.signals import gae, normalise
from pgcore_estimators.terms import bonus, bonus_cotangents, state_values

__all__ = ["AWR"]


@dataclass(frozen=True)
class AWR(Estimator):
    """Advantage-weighted regression: mean over steps of -min(exp(A / temperature), max_weight) log pi, plus value loss.

    A = R - V with R the TD(lambda) return. It is supervised learning of good actions, from any policy's episodes.

    Attributes:
        temperature: beta; positive, reward units.
        max_weight: Largest weight; positive.
        gamma: Discount in [0, 1].
        gae_lambda: Of the TD(lambda) return, in [0, 1].
        value_coefficient: Of (V - R)^2 / 2.
        normalise: "none", or "batch" to give advantages mean 0 and standard deviation 1 first.
        ddof: Of that standard deviation.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    temperature: float = 1.0
    max_weight: float = 20.0
    gamma: float = 0.99
    gae_lambda: float = 0.95
    value_coefficient: float = 0.5
    normalise: str = "none"
    ddof: int = 1
    name: ClassVar[str] = "awr"
    sources: ClassVar[tuple[str, ...]] = ("Peng et al. 2019, eqs. 4 and 5, arXiv:1910.00177",)

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("temperature", "max_weight"):
            set_field(self, name, positive(f"AWR.{name}", getattr(self, name), EstimatorError))
        for name in ("gamma", "gae_lambda"):
            set_field(self, name, unit_interval(f"AWR.{name}", getattr(self, name), EstimatorError))
        set_field(self, "value_coefficient", number("AWR.value_coefficient", self.value_coefficient, EstimatorError))
        one_of("AWR.normalise", self.normalise, ("none", "batch"), EstimatorError)
        one_of("AWR.ddof", self.ddof, (0, 1), EstimatorError)

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="limited", needs_critic=True, discrete_only=False)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `weight` and the critic's target `return_`."""
        v_t, v_tp1 = state_values(batch, evaluate)
        a_t = gae(batch.rewards, v_t, v_tp1, batch.episode_lengths, self.gamma, self.gae_lambda)
        scaled = normalise(a_t, batch.step_weights, ddof=self.ddof) if self.normalise == "batch" else a_t
        # Limited before the exponential is taken, which then cannot overflow.
        weight = np.exp(np.minimum(scaled / self.temperature, math.log(self.max_weight)))
        return {"weight": weight, "return_": a_t + v_t}

    def surrogate(
        self, xp: ArrayNamespace, *, log_prob: Native, value: Native, weight: Native, return_: Native
    ) -> Native:
        """See `Estimator.surrogate`."""
        return -log_prob * weight + bonus(self.value_coefficient, 0.0, value, return_, None)

    def cotangents(self, *, log_prob: Array, value: Array, weight: Array, return_: Array) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -weight} | bonus_cotangents(self.value_coefficient, 0.0, value, return_, None)

    def metrics(self, *, value: Array, return_: Array, weight: Array, **others: Array) -> dict[str, float]:
        """See `Estimator.metrics`."""
        error = value - return_
        return {"value_loss": float(0.5 * (error * error).mean()), "mean_weight": float(weight.mean())}
