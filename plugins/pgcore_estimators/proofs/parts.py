"""Proofs of the parts of estimators: combinations to try, and the non-differentiable points of each.

The definitions are the reference of terms. Together the variants hold every part, each with a partner that it
meets in no preset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pgcore.api import gradient
from pgcore.data.spec import PolicySpec, Table
from pgcore.heads import Categorical
from pgcore.validation.arrays import Array
from pgcore_check.cases.kinks import constants, one_step, row
from pgcore_check.proof import Build, Kink, Proof
from pgcore_estimators import preset_classes
from pgcore_estimators.policy_gradient import PolicyGradient
from pgcore_estimators.presets import PRESETS
from pgcore_estimators.proofs.composed import ComposedForm

__all__ = ["PROOFS"]

GROUP = {"advantage": "group_relative", "critic": None}
VARIANTS: dict[str, dict[str, Any]] = {
    "dual clip, huber": {
        "objective": {"low": 0.3, "dual": 1.5},
        "critic": {"name": "huber", "bound": 0.5},
        "entropy_coefficient": 0.02,
        "normalise": "minibatch",
    },
    "delta below the bound, straight-through k3": {
        **GROUP,
        "objective": {"low": 0.2, "high": 0.4, "delta": 1.2},
        "penalty": {"name": "k3_straight", "coefficient": 0.4},
    },
    "clipped weight, held value": {
        "advantage": {"name": "returns", "gamma": 0.9, "baseline": "value"},
        "objective": {"name": "cispo", "low": 0.2, "high": 0.1},
        "critic": {"name": "clipped", "clip": 0.3, "take": "held", "half": False},
    },
    "soft gate, smooth L1": {
        "advantage": {"gamma": 0.9, "gae_lambda": 0.8},
        "objective": {"name": "sapo", "tau_positive": 2.0, "tau_negative": 3.0},
        "critic": {"name": "huber", "bound": 2.0, "scaled": True},
        "normalise": "batch",
    },
    "limited ratios of single steps, k2": {
        "advantage": {"name": "group_relative", "scale": "batch", "lone": "raw", "ddof": 0},
        "objective": {"name": "gmpo", "low": 0.1, "high": 0.2},
        "penalty": {"name": "k2", "coefficient": 0.3, "ratio": "constant"},
        "reduction": "trajectory",
    },
    "product of ratios, ratio-weighted k3": {
        **GROUP,
        "objective": {"low": 0.3, "high": 0.6},
        "level": "sequence_product",
        "penalty": {"name": "k3", "coefficient": 0.3, "ratio": "differentiated"},
        "reduction": "episode_step",
    },
    "ratio of the sequence's value, |k1|": {
        **GROUP,
        "objective": "ratio",
        "level": "gspo_token",
        "penalty": {"name": "abs_k1", "coefficient": 0.3},
    },
    "ratio, exact KL": {
        "advantage": {"gamma": 0.9},
        "objective": "ratio",
        "penalty": [
            {"name": "exact", "coefficient": 0.7},
            {"name": "exact", "coefficient": 0.2, "direction": "reverse_kl"},
        ],
    },
    "score, k1 in loss and reward": {
        "advantage": {"name": "returns", "gamma": 0.9},
        "objective": "score",
        "penalty": [
            {"name": "k1", "coefficient": 0.3},
            {"name": "k3", "coefficient": 0.2, "place": "reward"},
        ],
        "entropy_coefficient": 0.05,
    },
}
# Nats. log 1/2 plus and minus these does not round, nor do the logarithms of the bounds.
BOUND, LARGE, LARGER = 0.1875, 1.0, 1.5
COIN = PolicySpec(Table(1), Categorical(2), "separate")
DUAL = PolicyGradient(
    objective={"low": -math.expm1(-BOUND), "high": math.expm1(BOUND), "dual": math.exp(LARGE)}
)
DELTA = PolicyGradient(objective={"high": math.expm1(LARGER), "delta": math.exp(LARGE)})
FAR_DELTA = PolicyGradient(objective={"high": math.expm1(BOUND), "delta": math.exp(LARGE)})
GATE = PolicyGradient(objective="sapo")
LIMITED = PolicyGradient(objective={"name": "gmpo", "low": 0.25, "high": 0.25})
WEIGHT = PolicyGradient(
    objective={"name": "cispo", "low": -math.expm1(-BOUND), "high": math.expm1(BOUND)}
)
ABSOLUTE = PolicyGradient(objective="score", penalty={"name": "abs_k1", "coefficient": 1.0})
HUBER = PolicyGradient(critic={"name": "huber", "bound": 0.5}, value_coefficient=1.0)
HELD = PolicyGradient(
    critic={"name": "clipped", "clip": 0.5, "take": "held"}, value_coefficient=1.0
)


def at(
    estimator: PolicyGradient,
    *,
    log_ratio: float = 0.0,
    advantage: float = 0.0,
    gap: float = 0.0,
    value: float = 0.0,
    return_: float = 0.0,
) -> Callable[[Build], dict[str, Array]]:
    """Return a composition's gradient in the logits of a fair coin, action 0, and in its value.

    Args:
        estimator: The composition.
        log_ratio: log pi - log mu, nats.
        advantage: A of the one step.
        gap: log pi - log pi_ref, nats.
        value: V, whose recorded value is 0.
        return_: Its target.
    """

    def compute(build: Build) -> dict[str, Array]:
        policy = build(COIN)
        policy.load({"network.table": np.zeros((1, 2)), "critic.table": np.array([[value]])})
        batch = one_step(0)
        # From the policy's own log pi, so that no rounding moves the ratio off its bound.
        now = policy.evaluate(batch, ("log_prob",))["log_prob"][0]
        recorded = {"old_log_prob": now - log_ratio, "reference_log_prob": now - gap}
        signals = constants(policy, advantage, return_=return_, old_value=0.0, **recorded)
        return gradient(policy, estimator, batch, signals=signals).numpy()

    return compute


def points() -> Iterator[Kink]:
    """Yield the kinks of ratios: label, composition, log ratio, A, and the slope of the gain."""
    e = math.exp
    for group, estimator, cases in (
        (
            "dual",
            DUAL,
            (
                ("at the dual bound, A < 0", LARGE, -1.0, -e(LARGE)),
                ("above the dual bound, A < 0", 1.25, -1.0, 0.0),
                ("above the dual bound, A > 0", 1.25, 1.0, 0.0),
                ("between the bounds, A < 0", 0.5, -1.0, -e(0.5)),
                ("at 1 + high, A > 0", BOUND, 1.0, e(BOUND)),
                ("below 1 - low, A < 0", -0.25, -1.0, 0.0),
                ("below 1 - low, A > 0", -0.25, 1.0, e(-0.25)),
                ("log ratio 1000, A < 0", 1000.0, -1.0, 0.0),
            ),
        ),
        (
            "delta",
            DELTA,
            (
                ("at delta, A > 0", LARGE, 1.0, e(LARGE)),
                ("above delta, A > 0", 1.25, 1.0, 0.0),
                ("between delta and 1 + high, A < 0", 1.25, -1.0, -e(1.25)),
                ("at 1 + high, A < 0", LARGER, -1.0, -e(LARGER)),
                ("above 1 + high, A < 0", 2.0, -1.0, 0.0),
            ),
        ),
        (
            "far delta",
            FAR_DELTA,
            (
                ("above 1 + high, A > 0", 0.5, 1.0, 0.0),
                ("at delta, A < 0", LARGE, -1.0, -e(LARGE)),
                ("above delta, A < 0", 1.25, -1.0, 0.0),
            ),
        ),
        (
            "soft gate",
            GATE,
            (
                ("at ratio 1, A > 0", 0.0, 1.0, 1.0),
                ("at ratio 1, A < 0", 0.0, -1.0, -1.0),
                ("log ratio 1000, A > 0", 1000.0, 1.0, 0.0),
                ("log ratio 1000, A < 0", 1000.0, -1.0, 0.0),
                ("log ratio 1000, A = 0", 1000.0, 0.0, 0.0),
            ),
        ),
        (
            "limited ratio",
            LIMITED,
            (
                ("at high, A > 0", 0.25, 1.0, e(0.25)),
                ("above high, A > 0", 0.5, 1.0, 0.0),
                ("above high, A < 0", 0.5, -1.0, -e(0.5)),
                ("at -low, A < 0", -0.25, -1.0, -e(-0.25)),
                ("below -low, A < 0", -0.5, -1.0, 0.0),
                ("below -low, A > 0", -0.5, 1.0, e(-0.5)),
                ("log ratio 1000, A > 0", 1000.0, 1.0, 0.0),
            ),
        ),
        (
            "clipped weight",
            WEIGHT,
            (
                ("at 1 + high", BOUND, 1.0, e(BOUND)),
                ("above 1 + high", 2.0, 1.0, e(BOUND)),
                ("at 1 - low", -BOUND, 1.0, e(-BOUND)),
                ("log ratio -1000", -1000.0, 1.0, e(-BOUND)),
            ),
        ),
    ):
        for label, log_ratio, advantage, slope in cases:
            # d gain / d logits = slope (e_a - pi), with pi = (1/2, 1/2); the loss is its negative.
            compute = at(estimator, log_ratio=log_ratio, advantage=advantage)
            yield kink(group, label, compute, row(-0.5 * slope, 0.5 * slope))
    for label, gap, slope in (("l = 0", 0.0, 0.0), ("l > 0", 0.5, 1.0), ("l < 0", -0.5, -1.0)):
        expected = row(0.5 * slope, -0.5 * slope)
        yield kink("|k1|", label, at(ABSOLUTE, gap=gap), expected)
    for label, value, return_, slope in (
        ("error at the bound", 0.5, 0.0, 0.5),
        ("error past the bound", 4.0, 0.0, 0.5),
        ("error at minus the bound", 0.0, 0.5, -0.5),
    ):
        compute = at(HUBER, value=value, return_=return_)
        yield kink("huber", label, compute, {"critic.table": np.array([[slope]])})
    for label, value, return_, slope in (
        ("at its bound", 0.5, 2.0, -1.5),
        ("past its bound, the loss smaller", 1.0, 2.0, 0.0),
        ("past its bound, the loss larger", 1.0, 0.0, 0.0),
        ("at its lower bound", -0.5, 2.0, -2.5),
    ):
        compute = at(HELD, value=value, return_=return_)
        yield kink("held value", label, compute, {"critic.table": np.array([[slope]])})


def kink(
    group: str, label: str, compute: Callable[[Build], dict[str, Array]], expected: dict[str, Array]
) -> Kink:
    """Return a kink of one composition, at a fair coin."""
    estimator = PolicyGradient.name
    return Kink(f"{group}, {label}", f"parts {group}", estimator, "categorical", compute, expected)


# Bounds that some ratios of the kit's cases pass, and all of its penalties.
OPTIONS: dict[str, dict[str, Any]] = {
    "dapo": {"dual": 2.0, "kl_coefficient": 0.2},
    "bnpo": {"delta": 1.5, "scale": "batch"},
    "gmpo": {"clip_low": 0.1, "clip_high": 0.2, "entropy_coefficient": 0.01},
    "sapo": {"kl_coefficient": 0.1, "lone": "raw", "tau_negative": 2.0},
    "gspo_token": {"clip_low": 0.2, "clip_high": 0.3},
    "opo": {"entropy_coefficient": 0.01, "leave_one_out": True, "count_masked": False},
    "luspo": {"clip_low": 0.2, "clip_high": 0.3, "ddof": 0},
    "appo": {"clip_low": 0.1, "c_bar": 0.9, "trace_lambda": 0.8, "bootstrap": "mixed"},
    "gpg": {"norm": 0.5, "entropy_coefficient": 0.02},
    "maxrl": {"leave_one_out": True, "lone": "raw"},
    "optimal_token_baseline": {"corrected": True, "gamma": 0.9},
    "pass_at_k": {"scale": "batch", "kl_coefficient": 0.1},
    "reinforce_pp_baseline": {"gamma": 0.95, "kl_coefficient": 0.1},
    "tis": {"cap": 1.1, "correction_of": "geometric", "kl_coefficient": 0.1},
    "icepop": {"low": 0.9, "high": 1.2, "kl_coefficient": 0.1},
    "bypass": {"clip_low": 0.1, "clip_high": 0.15},
    "dppo_tv": {"delta": 0.02, "kl_coefficient": 0.1},
    "dppo_kl": {"delta": 0.01, "symmetric": True},
    "vespo": {"k_positive": 1.0, "lambda_positive": 1.0},
    "clip_cov": {"cov_low": 0.05, "cov_fraction": 0.2},
    "kl_cov": {"cov_fraction": 0.3, "kl_coefficient": 0.5},
}
# Presets whose proofs, in other modules, have terms of their own too.
WRITTEN = frozenset(
    ("actor_critic", "a2c", "ppo", "trpo", "vtrace", "awr", "trajectory_is", "pdis", "wis")
)
WRITTEN |= {"averaged_ratio", "rloo", "grpo", "dr_grpo", "gspo", "cispo", "reinforce_pp"}
PRESET_PROOFS = tuple(
    Proof(
        getattr(preset_classes, preset.class_name),
        {preset.name: OPTIONS.get(preset.name, {})},
        ComposedForm,
    )
    for preset in PRESETS
    if preset.name not in WRITTEN
)
PROOFS = (Proof(PolicyGradient, VARIANTS, ComposedForm, (*points(),)), *PRESET_PROOFS)
