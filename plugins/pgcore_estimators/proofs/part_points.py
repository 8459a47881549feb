"""Gradients of parts at points that were worked out by hand.

The definition of a part is the reference of its terms, so that a formula and a slope that are wrong
alike agree everywhere but here. A composition has several parts, since frameworks compile each.
Policies are fair coins: d log pi(a) / d logits = e_a - pi.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pgcore.api import gradient
from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec, Table
from pgcore.heads import Categorical
from pgcore.interfaces.signals import Signals
from pgcore.validation.arrays import Array
from pgcore_check.proof import Build, Kink, Proof
from pgcore_estimators.policy_gradient import PolicyGradient
from pgcore_estimators.proofs.corrections import sequence
from pgcore_estimators.proofs.parts import GATE, at

__all__ = ["PROOFS"]

# Log ratios of two steps, with A = 1 and 0, and log pi - log pi_ref of both, nats.
LOG_RATIOS, GAP = (0.5, -0.25), 0.5
WHOLE_SQUARE, LARGER = {"name": "squared", "half": False}, {"name": "clipped", "clip": 0.5}


def composed(level: str, critic: Any, *penalties: dict[str, Any]) -> PolicyGradient:
    """Return ratios of a level, with penalties of coefficients 1, 2, 4, 8 and a critic."""
    rows = [{**penalty, "coefficient": 2.0**i} for i, penalty in enumerate(penalties)]
    return PolicyGradient(
        objective="ratio", level=level, penalty=rows, critic=critic, value_coefficient=1.0
    )


def of_two_steps(
    estimator: PolicyGradient, value: float, return_: float
) -> Callable[[Build], dict[str, Array]]:
    """Return the gradient of an episode of two steps, each of which has a state and weighs 1.

    A reference takes action 0 three times in four.

    Args:
        estimator: The composition.
        value: V, whose recorded value is 0.
        return_: Its target.
    """

    def compute(build: Build) -> dict[str, Array]:
        policy = build(PolicySpec(Table(2), Categorical(2), "separate"))
        policy.load({"network.table": np.zeros((2, 2)), "critic.table": np.full((2, 1), value)})
        batch = Batch(
            observations=[0, 1],
            actions=[0, 0],
            rewards=[0.0, 0.0],
            episode_lengths=[2],
            terminated=[True],
        )
        now = policy.evaluate(batch, ("log_prob",))["log_prob"]
        values = {
            "advantage": np.array([1.0, 0.0]),
            "old_log_prob": now - LOG_RATIOS,
            "reference_log_prob": now - GAP,
            "reference": np.log([[0.75, 0.25]] * 2),
            "high_covariance": np.array([1.0, 0.0]),
            "return_": np.full(2, return_),
            "old_value": np.zeros(2),
        }
        values = {
            name: array.astype(policy.dtype)
            for name, array in values.items()
            if name in estimator.signal_names
        }
        values["episode"] = batch.episode_of_step
        signals = Signals(values, np.ones(2, policy.dtype), padded=False)
        return gradient(policy, estimator, batch, signals=signals).numpy()

    return compute


def masked(build: Build) -> dict[str, Array]:
    """Return the gradient of scores without groups of equal rewards and truncated episodes."""
    estimator = PolicyGradient(
        advantage={"name": "group_relative", "scale": "none"},
        objective="score",
        mask=["zero_variance", "truncated"],
        critic=None,
    )
    policy = build(PolicySpec(Table(6), Categorical(2), "separate"))
    policy.load({"network.table": np.zeros((6, 2)), "critic.table": np.zeros((6, 1))})
    batch = Batch(
        observations=np.arange(6),
        actions=np.zeros(6, np.intp),
        rewards=[1.0, 3.0, 2.0, 2.0, 0.0, 4.0],
        episode_lengths=np.ones(6, np.intp),
        terminated=[True, True, True, True, True, False],
        final_observations=np.zeros(6, np.intp),
        extras={"group": [0, 0, 1, 1, 2, 2]},
    )
    return gradient(policy, estimator, batch).numpy()


def points() -> Iterator[Kink]:
    """Yield the points: group, label, computation, and the expected gradient."""
    e = math.exp
    ratio, gate = e(0.5), 1 / (1 + e(1 - e(0.5)))
    compute = at(GATE, log_ratio=0.5, advantage=1.0)
    yield point("soft gate", "ratio exp(0.5)", compute, slopes(4 * ratio * gate * (1 - gate)))
    for advantage, log_weight in ((1.0, 3 * (1 - ratio) + 1.0), (-1.0, 2 * (1 - ratio) + 1.5)):
        compute, slope = sequence(0.5, advantage), advantage * e(log_weight)
        yield point("gamma weight", f"ratio exp(0.5), A = {advantage:g}", compute, slopes(slope))

    # Derivatives in log pi of k3, and of the weighed penalties at the ratio r of the step.
    k3, k3_slope = e(-GAP) - 1 + GAP, 1 - e(-GAP)
    plain = 1 + 2 * GAP + 4 * k3_slope + 8 * GAP
    weighed = [e(r) * (GAP + 2 * k3_slope + 4 * (k3_slope + k3)) for r in LOG_RATIOS]
    mean, total = e(sum(LOG_RATIOS) / 2), e(sum(LOG_RATIOS))
    names = ("k1", "k2", "k3", "k3_straight")
    estimator = composed("sequence", "squared", *({"name": name} for name in names))
    expected = slopes(0.5 * mean - plain, 0.5 * mean - plain) | errors(1.5)
    compute = of_two_steps(estimator, value=2.0, return_=0.5)
    yield point("sequence, penalties, squared error", "V - R = 1.5", compute, expected)
    estimator = composed(
        "sequence_product",
        WHOLE_SQUARE,
        {"name": "k2", "ratio": "constant"},
        {"name": "k3", "ratio": "constant"},
        {"name": "k3", "ratio": "differentiated"},
        {"name": "kl_cov"},
    )
    # The first step alone is of high covariance, and above the old policy.
    expected = slopes(total - weighed[0] - 8.0, total - weighed[1]) | errors(3.0)
    compute = of_two_steps(estimator, value=2.0, return_=0.5)
    yield point("product, weighed penalties, square", "V - R = 1.5", compute, expected)
    directions = ({"name": "exact", "direction": direction} for direction in ("kl", "reverse_kl"))
    estimator = composed("gspo_token", LARGER, *directions)
    # At action 0, pi - pi_ref is -1/4, and pi (log pi / pi_ref - KL) -1/4 log 3, which counts twice.
    exact = -0.5 - math.log(3.0)
    for value, return_, slope in ((1.0, 0.0, 1.0), (1.0, 2.0, 0.0), (1.0, 0.75, 0.25)):
        label, expected = f"V = {value:g}, R = {return_:g}", slopes(mean - exact, -exact)
        compute = of_two_steps(estimator, value, return_)
        yield point("gspo_token, exact KLs, larger loss", label, compute, expected | errors(slope))
    # A = -1, 1, then 0, 0 and -2, 2, of which the last is truncated: three steps count.
    third = 1 / 3
    expected = slopes(-third, third, 0.0, 0.0, -2 * third, 0.0)
    yield point("masks of whole steps", "3 of 6 count", masked, expected)


def slopes(*values: float) -> dict[str, Array]:
    """Return the derivative of the logits, a state a row, from that of minus the loss in log pi."""
    return {"network.table": np.array([[-0.5 * slope, 0.5 * slope] for slope in values])}


def errors(slope: float) -> dict[str, Array]:
    """Return the derivative of both states' values."""
    return {"critic.table": np.full((2, 1), slope)}


def point(
    group: str, label: str, compute: Callable[[Build], dict[str, Array]], expected: dict[str, Array]
) -> Kink:
    """Return a point of one composition."""
    name = PolicyGradient.name
    return Kink(f"{group}, {label}", f"parts {group}", name, "categorical", compute, expected)


PROOFS = (Proof(PolicyGradient, kinks=(*points(),)),)
