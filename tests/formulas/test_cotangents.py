"""Each registered estimator's `cotangents` against SymPy's derivatives of its own `surrogate`, for every option, on both sides of every kink."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sympy as sp

import pgcore as pg
from pgcore.estimator import QUANTITIES
from pgcore.host import HostNamespace
from pgcore.registry import registry

OPTIONS = {
    "reinforce": [
        {},
        {"entropy_coefficient": 0.25},
        {"baseline": "value", "value_coefficient": 0.75, "entropy_coefficient": 0.5},
    ],
    "actor_critic": [{"value_coefficient": 0.75}, {"entropy_coefficient": 0.25}],
    "ppo": [
        {"clip": 0.25},
        {"clip": 0.25, "entropy_coefficient": 0.5, "value_coefficient": 2.0},
        {"clip": 1.5},
        {"clip": 0.25, "value_clip": 0.5},
        {"objective": "kl", "kl_coefficient": 0.75, "entropy_coefficient": 0.25},
        {"objective": "kl", "value_clip": 0.5},
    ],
    "a2c": [{}],
    "vtrace": [{"value_coefficient": 0.75}, {"entropy_coefficient": 0.25}],
    "awr": [{}],
    "trajectory_is": [{}],
    "pdis": [{}],
    "wis": [{}],
    "averaged_ratio": [{}],
    "rloo": [{}],
    "grpo": [{"clip_low": 0.25, "clip_high": 0.5}, {"kl_coefficient": 0.75}],
    "dr_grpo": [{"clip_low": 0.25}],
    "gspo": [{"clip_low": 0.25, "clip_high": 0.5}],
    "cispo": [{"clip_low": 0.25, "clip_high": 0.5}, {}],
    "reinforce_pp": [{"clip": 0.25}],
    "q_learning": [{}, {"huber": 0.5}],
}
# Sums over actions: `test_symbolic_action_values` has a symbol for each action.
ELSEWHERE = {"expected", "soft_actor"}
CASES = [(name, fields) for name, options in OPTIONS.items() for fields in options]


class Symbolic(HostNamespace):
    """The array namespace on SymPy's scalars."""

    exp, log, sqrt, abs = sp.exp, sp.log, sp.sqrt, sp.Abs

    @staticmethod
    def where(condition, x, y):
        return sp.Piecewise((x, condition), (y, True))

    @staticmethod
    def clip(x, low, high):  # pyright: ignore[reportIncompatibleMethodOverride]
        return sp.Piecewise((low, x < low), (high, x > high), (x, True))

    @staticmethod
    def full_like(x, value):  # pyright: ignore[reportIncompatibleMethodOverride]
        return sp.Float(value, 40)

    @staticmethod
    def episode_sum(x, episode):  # pyright: ignore[reportIncompatibleMethodOverride]
        return x  # every point is an episode of one step

    @staticmethod
    def episode_mean(x, episode):  # pyright: ignore[reportIncompatibleMethodOverride]
        return x


def test_every_registered_estimator_is_tried():
    assert set(registry().names("estimators")) == set(OPTIONS) | ELSEWHERE


@pytest.mark.parametrize(("name", "fields"), CASES, ids=str)
def test_cotangents_are_the_surrogates_derivatives(name, fields):
    estimator = pg.estimator(name, **fields)
    symbols = {keyword: sp.Symbol(keyword, real=True) for keyword in estimator.keywords}
    namespace: Any = Symbolic()
    term = estimator.surrogate(namespace, **symbols)
    rng = np.random.default_rng(0)
    # Wide enough that clipped and unclipped ratios and values, of either sign of advantage, are all among the points.
    points: dict[str, Any] = {keyword: np.round(rng.uniform(-1.0, 1.0, 40), 3) for keyword in symbols}
    if estimator.sees_episodes:
        points["episode"] = np.arange(40)
    cotangents = estimator.cotangents(**points)
    assert set(cotangents) == {keyword for keyword in symbols if keyword in QUANTITIES}
    for quantity, found in cotangents.items():
        derivative = sp.diff(term, symbols[quantity])
        expected = [
            float(
                sp.N(
                    derivative.subs(
                        {symbols[keyword]: sp.Rational(str(values[t])) for keyword, values in points.items()}
                    ),
                    30,
                )
            )
            for t in range(40)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-15, err_msg=quantity)
    if "clip" in fields and fields["clip"] < 1.0:
        clipped = estimator.metrics(**points)["clip_fraction"]
        assert 0.1 < clipped < 0.9  # both branches were tried


def test_ppo_at_ratio_one_has_the_policy_gradients_cotangent():
    values = {"value": np.zeros(3), "return_": np.zeros(3), "advantage": np.array([1.0, -2.0, 0.5])}
    same = np.array([-0.3, -1.0, -2.0])
    found = pg.estimator("ppo").cotangents(log_prob=same, old_log_prob=same, **values)
    plain = pg.estimator("actor_critic").cotangents(log_prob=same, **values)
    np.testing.assert_array_equal(found["log_prob"], plain["log_prob"])


@pytest.mark.parametrize(("kl", "factor"), [(0.016, 2.0), (0.0149, 1.0), (0.0067, 1.0), (0.0066, 0.5)])
def test_the_penalty_coefficient_follows_the_kl(kl, factor):
    estimator = pg.estimator("ppo", objective="kl", kl_coefficient=0.5, kl_target=0.01)
    assert vars(estimator.adapted({"kl": kl}))["kl_coefficient"] == 0.5 * factor
    fixed = pg.estimator("ppo", objective="kl", kl_target=None)
    assert fixed.adapted({"kl": kl}) is fixed
    clipped = pg.estimator("ppo")
    assert clipped.adapted({}) is clipped
