"""SymPy proves rows B5-B8 and E2 for every policy and every reward of a two-step problem, and the estimator computes what it proves.

Logits are logarithms of positive symbols, so that probabilities are rational functions and SymPy decides equality by itself.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import sympy as sp

import pgcore as pg

# Odds of the two actions in state 0, and in the state that each action leads to; rewards of the first and of the second step.
ODDS = [sp.symbols(f"x{s}_0:2", positive=True) for s in range(3)]
FIRST = sp.symbols("r0:2", real=True)
SECOND = [sp.symbols(f"q{a}_0:2", real=True) for a in range(2)]
PI = [[x / sum(pair) for x in pair] for pair in ODDS]
WAYS = list(itertools.product(range(2), repeat=2))
VALUE = sum(PI[0][a] * PI[1 + a][b] * (FIRST[a] + SECOND[a][b]) for a, b in WAYS)

POINT = dict(
    zip(
        itertools.chain(*ODDS),
        map(sp.Rational, ("1/2", "4/3", "2", "3/4", "1", "5/2")),
        strict=True,
    )
)
POINT |= dict(
    zip(
        [*FIRST, *SECOND[0], *SECOND[1]],
        map(sp.Rational, ("1", "-1/2", "3/4", "2", "-1", "1/4")),
        strict=True,
    )
)


def by_logit(expression):
    """Return d expression / d logit, [state][action]; the logit is the logarithm of the odds."""
    return [[sp.simplify(x * sp.diff(expression, x)) for x in pair] for pair in ODDS]


def score(state, action):
    return np.array(
        [
            [
                x * sp.diff(sp.log(PI[state][action]), x) if s == state else sp.Integer(0)
                for x in pair
            ]
            for s, pair in enumerate(ODDS)
        ]
    )


def probability(way):
    return PI[0][way[0]] * PI[1 + way[0]][way[1]]


def rewards(way):
    return FIRST[way[0]], SECOND[way[0]][way[1]]


def episode_score(way):
    return score(0, way[0]) + score(1 + way[0], way[1])


def identical(left, right):
    return all(
        sp.simplify(a - b) == 0 for a, b in zip(np.ravel(left), np.ravel(right), strict=True)
    )


def backend_expectation(episodes, **fields):
    """Return the exact expectation of the backend's gradient at POINT, [state][action], over all batches of that many episodes."""
    policy = pg.policy(pg.PolicySpec(pg.Table(3), pg.Categorical(2)), dtype="float64")
    policy.load(
        {"network.table": np.log(np.array([[float(POINT[x]) for x in pair] for pair in ODDS]))}
    )
    estimator = pg.estimator("reinforce", gamma=fields.pop("gamma", 1.0), **fields)
    total = np.zeros((3, 2))
    for chosen in itertools.product(WAYS, repeat=episodes):
        batch = pg.Batch(
            observations=[state for a, _ in chosen for state in (0, 1 + a)],
            actions=[action for way in chosen for action in way],
            rewards=[float(r.subs(POINT)) for way in chosen for r in rewards(way)],
            episode_lengths=[2] * episodes,
            terminated=[True] * episodes,
        )
        chance: Any = sp.prod([probability(way) for way in chosen])
        weight = float(chance.subs(POINT))
        total += weight * pg.gradient(policy, estimator, batch).numpy()["network.table"]
    return total


def at_point(expressions):
    return np.array([[float(sp.N(e.subs(POINT), 30)) for e in row] for row in expressions])


def test_b5_expected_score_times_full_return_is_the_gradient():
    expected = sum(probability(way) * episode_score(way) * sum(rewards(way)) for way in WAYS)
    assert identical(expected, by_logit(VALUE))
    np.testing.assert_allclose(
        backend_expectation(1, reward_to_go=False), -at_point(by_logit(VALUE)), atol=1e-15
    )


def test_b6_earlier_rewards_drop_out_of_the_expectation():
    causal = sum(
        probability(way)
        * (score(0, way[0]) * sum(rewards(way)) + score(1 + way[0], way[1]) * rewards(way)[1])
        for way in WAYS
    )
    assert identical(causal, by_logit(VALUE))
    np.testing.assert_allclose(
        backend_expectation(1, reward_to_go=True), -at_point(by_logit(VALUE)), atol=1e-15
    )


@pytest.mark.parametrize(
    ("baseline", "factor"), [("mean", sp.Rational(1, 2)), ("leave_one_out", sp.Integer(1))]
)
def test_b7_a_mean_with_the_own_episode_shrinks_the_gradient(baseline, factor):
    def term(own, other):
        returns = [sum(rewards(way)) for way in (own, other)]
        b = (returns[0] + returns[1]) / 2 if baseline == "mean" else returns[1]
        return probability(own) * probability(other) * episode_score(own) * (returns[0] - b)

    # Both episodes of a batch of two have the same expectation, so one of them is the mean's.
    expected = sum(term(own, other) for own, other in itertools.product(WAYS, repeat=2))
    assert identical(expected, factor * np.array(by_logit(VALUE)))
    found = backend_expectation(2, baseline=baseline)
    np.testing.assert_allclose(found, -float(factor) * at_point(by_logit(VALUE)), atol=1e-15)


def test_b7_any_constant_leaves_the_expectation():
    b = sp.Symbol("b", real=True)
    expected = sum(probability(way) * episode_score(way) * (sum(rewards(way)) - b) for way in WAYS)
    assert identical(expected, by_logit(VALUE))


def test_b8_the_optimal_baseline_is_where_the_variance_is_flat():
    b = sp.Symbol("b", real=True)
    for state, action in ((0, 0), (2, 1)):
        g = {way: episode_score(way)[state, action] for way in WAYS}
        second_moment = sum(
            probability(way) * (g[way] * (sum(rewards(way)) - b)) ** 2 for way in WAYS
        )
        best = sum(probability(way) * g[way] ** 2 * sum(rewards(way)) for way in WAYS) / sum(
            probability(way) * g[way] ** 2 for way in WAYS
        )
        assert sp.simplify(sp.diff(second_moment, b).subs(b, best)) == 0
        assert sp.diff(second_moment, b, 2).subs(POINT) > 0
    for baseline in ("optimal", "optimal_per_component"):
        np.testing.assert_allclose(
            backend_expectation(2, baseline=baseline), -at_point(by_logit(VALUE)), atol=1e-15
        )


def test_e2_the_steps_own_reward_leaves_out_what_the_first_action_led_to():
    alone = sum(
        probability(way)
        * (score(0, way[0]) * rewards(way)[0] + score(1 + way[0], way[1]) * rewards(way)[1])
        for way in WAYS
    )
    gap = np.array(by_logit(VALUE)) - alone
    later = [sum(PI[1 + a][b] * SECOND[a][b] for b in range(2)) for a in range(2)]
    # What is missing is the first action's effect on the second reward, and nothing else.
    assert identical(
        gap[0],
        [PI[0][a] * (later[a] - PI[0][0] * later[0] - PI[0][1] * later[1]) for a in range(2)],
    )
    assert identical(gap[1:], np.zeros((2, 2), int))
    np.testing.assert_allclose(backend_expectation(1, gamma=0.0), -at_point(alone), atol=1e-15)
    assert np.abs(at_point(gap)).max() > 0.1
