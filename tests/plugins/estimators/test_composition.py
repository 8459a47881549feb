"""Compositions against the classes that write the same estimators out, and combinations that make no sense."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore_check.cases.cases import Case

GROUPED = {"advantage": "group_relative", "critic": None, "reduction": "episode_step"}
GSPO = {"objective": {"name": "clip", "low": 3e-4, "high": 4e-4}, "level": "sequence"}
HELD = {"name": "clipped", "clip": 0.2}
SUMS = {"reduction": "trajectory"}
RLOO = {"name": "group_relative", "scale": "none", "leave_one_out": True, "lone": "error"}
RELATIVE = {"name": "group_relative", "scale": "none"}


def k3(coefficient):
    return {"name": "k3", "coefficient": coefficient}


# A class that writes a loss out, its options, and the same composition.
PAIRS = {
    "ppo": ("ppo", {}, {"normalise": "minibatch"}),
    "ppo value clip": (
        "ppo",
        {"clip": 0.3, "value_clip": 0.2, "normalise": "batch", "entropy_coefficient": 0.01},
        {
            "objective": {"name": "clip", "low": 0.3, "high": 0.3},
            "critic": HELD,
            "normalise": "batch",
            "entropy_coefficient": 0.01,
        },
    ),
    "a2c": (
        "a2c",
        {},
        {
            "advantage": {"gae_lambda": 1.0},
            "objective": "score",
            "entropy_coefficient": 0.01,
        },
    ),
    "trpo": ("trpo", {}, {"objective": "ratio", "normalise": "batch"}),
    "reinforce": ("reinforce", {}, {"advantage": "returns", "objective": "score", **SUMS}),
    "reinforce value": (
        "reinforce",
        {"baseline": "value", "gamma": 0.9},
        {
            "advantage": {"name": "returns", "gamma": 0.9, "baseline": "value"},
            "objective": "score",
            **SUMS,
        },
    ),
    "grpo": ("grpo", {"kl_coefficient": 0.3}, {**GROUPED, "penalty": k3(0.3)}),
    "dr grpo": (
        "dr_grpo",
        {"clip_high": 0.3, "kl_coefficient": 0.1},
        {"advantage": RELATIVE, "objective": {"high": 0.3}, "penalty": k3(0.1), **SUMS},
    ),
    "gspo": ("gspo", {"clip_low": 0.2, "clip_high": 0.3}, {**GROUPED, **GSPO}),
    "cispo": (
        "cispo",
        {"clip_low": 0.1, "group": "all"},
        {
            "advantage": {"name": "group_relative", "group": "all"},
            "objective": {"name": "cispo", "low": 0.1},
        },
    ),
    "rloo": (
        "rloo",
        {"kl_coefficient": 0.1, "group": "all"},
        {
            "advantage": {**RLOO, "group": "all"},
            "objective": "score",
            "penalty": {"name": "k1", "coefficient": 0.1, "place": "reward"},
            **SUMS,
        },
    ),
}
PAIRS["gspo"][2]["objective"] = {"low": 0.2, "high": 0.3}


def composed(**fields):
    return pg.estimator("policy_gradient", **fields)


def case_of(estimator, backend="numpy"):
    """Return a policy and a batch of four episodes, with all that the estimator reads."""
    spec = pg.PolicySpec(pg.MLP(4, (8, 6)), pg.Categorical(4), "separate")
    return Case("", spec, estimator, "float64", 5).make(backend)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("label", PAIRS)
def test_a_composition_is_the_class_that_writes_it_out(label, backend):
    name, options, fields = PAIRS[label]
    plain, parts = pg.estimator(name, **options), composed(**fields)
    policy, batch = case_of(plain, backend)
    expected, actual = (pg.signals(policy, estimator, batch) for estimator in (plain, parts))
    assert actual.values.keys() == expected.values.keys()
    for signal, value in expected.values.items():
        np.testing.assert_array_equal(actual[signal], value, signal)
    np.testing.assert_array_equal(actual.weights, expected.weights)
    assert set(parts.quantities) == set(plain.quantities)
    assert parts.claims.needs_critic == plain.claims.needs_critic
    assert parts.claims.whole_episodes == plain.claims.whole_episodes
    assert parts.claims.unbiased == plain.claims.unbiased
    assert parts.used_extras.keys() >= plain.used_extras.keys() - {"reference"}

    left = pg.gradient(policy, plain, batch, signals=expected)
    right = pg.gradient(policy, parts, batch, signals=actual)
    tolerance = {"rtol": 1e-15 if backend == "numpy" else 1e-12, "atol": 1e-15}
    np.testing.assert_allclose(right.terms(), left.terms(), **tolerance)
    for parameter, value in left.numpy().items():
        np.testing.assert_allclose(right.numpy()[parameter], value, err_msg=parameter, **tolerance)
    for metric, figure in left.metrics.items():
        assert right.metrics[metric] == pytest.approx(figure, rel=1e-12, nan_ok=True), metric
