"""The estimators that `pgcore check` tries the part in, and points that were worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import pgcore as pg
from pgcore.parts.objectives import Slope
from pgcore.validation.arrays import Array
from pgcore_check.cases.kinks import constants, one_step, row
from pgcore_check.proof import Bug, Build, Kink, Proof
from pgcore_estimators.policy_gradient import PolicyGradient
from spo.part import Spo

__all__ = ["PROOF"]

VARIANTS = {
    "spo": {"objective": Spo()},
    "spo of sequences": {
        "objective": Spo(epsilon=0.5),
        "advantage": "group_relative",
        "level": "sequence",
        "critic": None,
    },
}
# A fair coin: one state, and two actions of equal logits.
COIN = pg.PolicySpec(pg.Table(1), pg.Categorical(2))
ESTIMATOR = PolicyGradient(objective=Spo(epsilon=0.25), advantage="returns", critic=None)
LOG_2 = math.log(2.0)  # nats
# At the bound the gradient is a difference, which an ulp of the ratio changes by some three.
ROUNDING = 8.0 * 2.0**-52


def gradient_at(log_ratio: float, advantage: float) -> Callable[[Build], dict[str, Array]]:
    """Return the computation of the gradient in the logits, at a log ratio and an advantage."""

    def compute(build: Build) -> dict[str, Array]:
        policy = build(COIN)
        policy.load({"network.table": np.zeros((1, 2))})
        batch = one_step(0)
        now = policy.evaluate(batch, ("log_prob",))["log_prob"][0]
        signals = constants(policy, advantage, old_log_prob=now - log_ratio)
        return pg.gradient(policy, ESTIMATOR, batch, signals=signals).numpy()

    return compute


def point(
    label: str, log_ratio: float, advantage: float, slope: float, rounding: float = 0.0
) -> Kink:
    """Return a point with the gradient that follows from the gain's slope in the log ratio."""
    # The loss is minus the gain, and log pi has the slopes 1/2 and -1/2 in the logits.
    expected = row(-0.5 * slope, 0.5 * slope)
    compute = gradient_at(log_ratio, advantage)
    return Kink(f"spo, {label}", "spo", ESTIMATOR.name, "categorical", compute, expected, rounding)


# The slope r A - r (r - 1) |A| / epsilon, by hand.
POINTS = (
    point("ratio 1", 0.0, 2.0, 2.0),
    point("at the bound, A > 0", math.log(1.25), 1.0, 0.0, ROUNDING),
    point("beyond the bound, A > 0", LOG_2, 1.0, -6.0),
    point("beyond the bound, A < 0", -LOG_2, -1.0, 0.5),
    point("ratio 2, A < 0", LOG_2, -1.0, -10.0),
    point("log ratio 1000, A = 0", 1000.0, 0.0, 0.0),
)


class WithoutRatio(Spo):
    """A slope by the ratio, where one by its logarithm belongs."""

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Spo.slope`."""
        slope, _ = super().slope(log_ratio, log_prob, advantage, **inputs)
        return slope / np.exp(log_ratio), None


# In cases the gain is its own reference, in extended precision; the points hold the gain itself.
PROOF = Proof(
    PolicyGradient, VARIANTS, kinks=POINTS, bugs=(Bug("no ratio", WithoutRatio(), "cotangents"),)
)
