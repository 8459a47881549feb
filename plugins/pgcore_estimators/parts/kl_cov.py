"""The distance to the old policy, at the steps where advantage and log-probability move together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.parts import Penalty
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_estimators.covariances import Fraction, covariances, fraction_of

__all__ = ["CovariancePenalty"]


@dataclass(frozen=True)
class CovariancePenalty(Penalty):
    """coefficient |log pi - log pi_old| at the top fraction of steps by covariance, 0 elsewhere.

    The covariance of a step is (A - mean A)(log pi - mean log pi), with pi and the means of the
    policy and batch that the signals are computed from, not of a later minibatch. Of equal ones the
    first steps are taken. The derivative at log pi = log pi_old is 0.

    Attributes:
        coefficient: Its factor; 0 leaves it out.
        fraction: Of the steps, rounded down, and at least 1 step.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    coefficient: Number = 1.0
    fraction: Fraction = 2e-4
    name = "kl_cov"
    sources = ("Cui et al. 2025, arXiv:2505.22617",)

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Part.reads`."""
        return ("log_prob", "old_log_prob", "high_covariance")

    def signals_of(self, batch: Batch, evaluate: Evaluate, advantage: Array) -> Mapping[str, Array]:
        """See `Part.signals_of`."""
        covariance, real = covariances(batch, evaluate, advantage)
        steps = np.flatnonzero(real)
        order = np.argsort(-covariance[steps], kind="stable")
        top = np.zeros(batch.num_steps)
        top[steps[order[: fraction_of(real, self.fraction)]]] = 1.0
        return {"high_covariance": top}

    def term(self, xp: ArrayNamespace, **inputs: Native) -> Native:
        """See `Penalty.term`."""
        distance = xp.abs(inputs["log_prob"] - inputs["old_log_prob"])
        return self.coefficient * (inputs["high_covariance"] * distance)

    def slope(self, **inputs: Any) -> Mapping[str, Array]:
        """See `Penalty.slope`."""
        sign = np.sign(inputs["log_prob"] - inputs["old_log_prob"])
        return {"log_prob": self.coefficient * (inputs["high_covariance"] * sign)}
