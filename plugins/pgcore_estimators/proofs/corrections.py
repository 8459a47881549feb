"""Proofs of corrections and masks, and of the objectives that lean on a rollout policy.

The definitions are the reference. Bounds are such that some steps of the kit's cases pass them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pgcore.api import gradient
from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec, Table
from pgcore.heads import Categorical
from pgcore.validation.arrays import Array
from pgcore_check.cases.kinks import constants, one_step, row
from pgcore_check.proof import Build, Kink, Proof
from pgcore_estimators.policy_gradient import PolicyGradient

__all__ = ["PROOFS"]

GROUPED = {"advantage": "group_relative", "critic": None}
VARIANTS: dict[str, dict[str, Any]] = {
    "truncated by token, loss mask, sequence level": {
        **GROUPED,
        "objective": {"low": 0.1, "high": 0.2},
        "level": "sequence",
        "correction": {"name": "truncated", "cap": 1.1, "normalise": True},
        "mask": "loss",
        "reduction": "episode_step",
    },
    "truncated by sequence, groups that vary": {
        **GROUPED,
        "correction": {"name": "truncated", "of": "sequence", "cap": 1.2},
        "mask": "zero_variance",
        "penalty": {"name": "k3", "coefficient": 0.2},
        "reduction": "trajectory",
    },
    "masked by geometric mean": {
        **GROUPED,
        "correction": {"name": "masked", "of": "geometric", "low": 0.9, "high": 1.2},
        "level": "gspo_token",
    },
    "masked by token, top entropies": {
        "correction": {"name": "masked", "low": 0.8, "high": 1.5},
        "mask": {"name": "entropy_quantile", "fraction": 0.4},
        "critic": "huber",
    },
    "loss mask, values and bonus": {
        "mask": ["loss", {"name": "truncated"}],
        "entropy_coefficient": 0.02,
        "critic": {"name": "clipped", "clip": 0.3},
        "normalise": "minibatch",
    },
    "off-policy answers, ratio-weighted k3": {
        **GROUPED,
        "objective": "ratio",
        "mask": {"name": "off_policy_sequence", "delta": 0.02},
        "penalty": {"name": "k3", "coefficient": 0.3, "ratio": "differentiated"},
    },
    "bypass, covariance": {
        **GROUPED,
        "correction": "bypass",
        "mask": {"name": "clip_cov", "low": 0.05, "high": 2.0, "fraction": 0.2, "seed": 3},
        "penalty": {"name": "kl_cov", "coefficient": 0.3, "fraction": 0.3},
    },
    "gamma weight of tokens, all entropies": {
        "objective": {"name": "vespo", "k_positive": 1.5, "lambda_negative": 1.0},
        "mask": {"name": "entropy_quantile", "fraction": 0.6, "denominator": "loss"},
        "normalise": "batch",
    },
    "gamma weight of sequences, loss mask": {
        **GROUPED,
        "objective": "vespo",
        "level": "sequence_product",
        "mask": "loss",
    },
    "total variation, both sides": {
        **GROUPED,
        "objective": {"name": "dppo_tv", "delta": 0.05, "symmetric": True},
        "mask": "loss",
    },
    "total variation, old policy, whole answers": {
        "objective": {"name": "dppo_tv", "delta": 0.01, "behaviour": "old"},
        "mask": {"name": "truncated", "count_masked": True},
        "correction": "truncated",
    },
}
# Nats, of which neither the sum nor the difference with log 1/2 rounds.
STEP = 0.1875
COIN = PolicySpec(Table(1), Categorical(2), "separate")


def at(
    advantage: float, gap: float, *, beyond: bool, **objective: Any
) -> Callable[[Build], dict[str, Array]]:
    """Return a gradient in the logits of a fair coin, action 0.

    Args:
        advantage: A of the one step.
        gap: log pi - log mu, nats.
        beyond: Whether the divergence is a little above delta; else it is a little below.
        objective: Options of the objective, with its name.
    """

    def compute(build: Build) -> dict[str, Array]:
        policy = build(COIN)
        policy.load({"network.table": np.zeros((1, 2)), "critic.table": np.zeros((1, 1))})
        batch = one_step(0)
        now = policy.evaluate(batch, ("log_prob",))["log_prob"][0]
        # A thousandth is far more than any rounding of the divergence.
        part = PolicyGradient(objective=objective).objective
        divergence = divergence_of(part, now - gap, now)
        estimator = PolicyGradient(
            objective={**objective, "delta": divergence * (0.999 if beyond else 1.001)},
            critic=None,
        )
        signals = constants(policy, advantage, rollout_log_prob=now - gap)
        return gradient(policy, estimator, batch, signals=signals).numpy()

    return compute


def divergence_of(part: Any, log_mu: float, log_pi: float) -> float:
    """Return the divergence of an objective at one step."""
    mu, pi = math.exp(log_mu), math.exp(log_pi)
    if part.name == "dppo_tv":
        return abs(pi - mu)
    return mu * (log_mu - log_pi) + (1 - mu) * (math.log1p(-mu) - math.log1p(-pi))


def weighed(
    gain_weight: float, log_ratio: float, advantage: float
) -> Callable[[Build], dict[str, Array]]:
    """Return a corrected gradient at a log ratio and a weight; see `at`."""
    estimator = PolicyGradient(
        correction="truncated", objective={"low": 0.2, "high": math.expm1(STEP)}, critic=None
    )

    def compute(build: Build) -> dict[str, Array]:
        policy = build(COIN)
        policy.load({"network.table": np.zeros((1, 2)), "critic.table": np.zeros((1, 1))})
        batch = one_step(0)
        now = policy.evaluate(batch, ("log_prob",))["log_prob"][0]
        recorded = {"old_log_prob": now - log_ratio, "gain_weight": gain_weight}
        signals = constants(policy, advantage, **recorded)
        return gradient(policy, estimator, batch, signals=signals).numpy()

    return compute


def sequence(log_ratio: float, advantage: float) -> Callable[[Build], dict[str, Array]]:
    """Return a gradient with the gamma weight at a log ratio; see `at`."""
    estimator = PolicyGradient(objective="vespo", critic=None)

    def compute(build: Build) -> dict[str, Array]:
        policy = build(COIN)
        policy.load({"network.table": np.zeros((1, 2)), "critic.table": np.zeros((1, 1))})
        batch = one_step(0)
        now = policy.evaluate(batch, ("log_prob",))["log_prob"][0]
        signals = constants(policy, advantage, old_log_prob=now - log_ratio)
        return gradient(policy, estimator, batch, signals=signals).numpy()

    return compute


def masked(*rewards: float) -> Callable[[Build], dict[str, Array]]:
    """Return a gradient of two steps, of which the masked one was recorded as impossible."""

    def compute(build: Build) -> dict[str, Array]:
        policy = build(COIN)
        policy.load({"network.table": np.zeros((1, 2)), "critic.table": np.zeros((1, 1))})
        now = policy.evaluate(one_step(0), ("log_prob",))["log_prob"][0]
        batch = Batch(
            observations=[0, 0],
            actions=[0, 1],
            rewards=rewards,
            log_probs=[now, -math.inf],
            episode_lengths=[2],
            terminated=[True],
            extras={"loss_mask": [True, False]},
        )
        estimator = PolicyGradient(advantage="returns", mask="loss")
        return gradient(policy, estimator, batch).numpy()

    return compute


def points() -> Iterator[Kink]:
    """Yield the kinks: group, label, computation, and the slope of the gain."""
    e = math.exp
    for name in ("dppo_tv", "dppo_kl"):
        for label, advantage, gap, beyond, slope in (
            ("within delta, away, A > 0", 1.0, STEP, False, e(STEP)),
            ("beyond delta, away, A > 0", 1.0, STEP, True, 0.0),
            ("beyond delta, towards, A > 0", 1.0, -STEP, True, e(-STEP)),
            ("within delta, away, A < 0", -1.0, -STEP, False, -e(-STEP)),
            ("beyond delta, away, A < 0", -1.0, -STEP, True, 0.0),
            ("beyond delta, towards, A < 0", -1.0, STEP, True, -e(STEP)),
        ):
            yield kink(name, label, at(advantage, gap, beyond=beyond, name=name), slope)
        compute = at(1.0, -STEP, beyond=True, name=name, symmetric=True)
        yield kink(f"{name} symmetric", "beyond delta, towards", compute, 0.0)
        compute = at(1.0, 1000.0, beyond=True, name=name)
        yield kink(name, "log ratio 1000, A > 0", compute, 0.0)
    for label, weight, log_ratio, slope in (
        ("weight 2 at 1 + high", 2.0, STEP, 2.0 * e(STEP)),
        ("weight 2 above 1 + high", 2.0, 0.5, 0.0),
        ("weight 0 at log ratio -1000", 0.0, -1000.0, 0.0),
        ("weight 0 at log ratio 0", 0.0, 0.0, 0.0),
    ):
        yield kink("correction", label, weighed(weight, log_ratio, 1.0), slope)
    compute = weighed(0.0, 1000.0, -1.0)
    yield kink("correction", "weight 0 at log ratio 1000, A < 0", compute, 0.0)
    for label, log_ratio, advantage, slope in (
        ("at ratio 1, A > 0", 0.0, 1.0, 1.0),
        ("at ratio 1, A < 0", 0.0, -1.0, -1.0),
        ("log ratio 1000", 1000.0, 1.0, 0.0),
    ):
        yield kink("gamma weight", label, sequence(log_ratio, advantage), slope)
    # An exponent of -37 has an absolute error of some 1e-14, and the weight that relative error.
    compute, slope = sequence(-1000.0, 1.0), e(3.0 - 3e-8) * 1e-16
    yield replace(kink("gamma weight", "log ratio -1000, A > 0", compute, slope), atol=1e-29)
    # The first step alone counts, at ratio 1. A reward of the other one is its own.
    yield kink("loss mask", "old log-probability -inf", masked(1.0, 0.0), 1.0)
    yield kink("loss mask", "reward of the other step", masked(0.0, 1.0), 1.0)


def kink(
    group: str, label: str, compute: Callable[[Build], dict[str, Array]], slope: float
) -> Kink:
    """Return a kink of one composition, at a fair coin: d gain / d logits = slope (e_a - pi)."""
    name, expected = PolicyGradient.name, row(-0.5 * slope, 0.5 * slope)
    return Kink(f"{group}, {label}", f"parts {group}", name, "categorical", compute, expected)


# Beside a certain action M is rounding alone, so that the points are all that says something.
PROOFS = (Proof(PolicyGradient, VARIANTS, kinks=(*points(),)),)
