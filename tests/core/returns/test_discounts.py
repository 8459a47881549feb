"""Discounts that differ from step to step, against sums in plain loops."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.data.batch import Batch
from pgcore.errors import BatchError, ShapeError
from pgcore.registry.registry import registry
from pgcore.returns import (
    discounts,
    gae,
    n_step_returns,
    next_values,
    retrace,
    returns,
    state_discounts,
    vtrace,
)
from pgcore_check.cases.cases import Case, twinned
from pgcore_check.proofs import variants
from pgcore_train.learning.replay import Replay

LENGTHS = np.array([3, 1, 4])
RNG = np.random.default_rng(4)
REWARDS, VALUES, LOG_RATIOS = RNG.standard_normal((3, 8))
FINAL = np.array([0.5, 0.0, -2.0])
GAMMAS = 0.9 * np.array([1.0, 0.0, 0.5, 1.0, 0.25, 1.0, 1.0, 0.75])
V_TP1 = next_values(VALUES, LENGTHS, FINAL)


def episodes():
    """Return the steps of each episode, and the value after it."""
    ends = LENGTHS.cumsum()
    return [(range(end - n, end), v) for n, end, v in zip(LENGTHS, ends, FINAL, strict=True)]


def between(t, k):
    """Return the discount from step t to step k."""
    return math.prod(GAMMAS[t:k])


def test_returns_discount_each_step_by_its_own():
    expected = [
        sum(between(t, k) * REWARDS[k] for k in range(t, steps.stop)) + between(t, steps.stop) * v
        for steps, v in episodes()
        for t in steps
    ]
    np.testing.assert_allclose(returns(REWARDS, LENGTHS, GAMMAS, FINAL), expected, rtol=1e-14)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_n_step_returns_discount_each_step_by_its_own(n):
    expected = []
    for steps, v in episodes():
        ahead = {**{t: VALUES[t] for t in steps}, steps.stop: v}
        for t in steps:
            end = min(t + n, steps.stop)
            total = sum(between(t, k) * REWARDS[k] for k in range(t, end))
            expected.append(total + between(t, end) * ahead[end])
    actual = n_step_returns(REWARDS, VALUES, V_TP1, LENGTHS, GAMMAS, n)
    np.testing.assert_allclose(actual, expected, rtol=1e-13)


def test_gae_discounts_each_step_by_its_own():
    delta = REWARDS + GAMMAS * V_TP1 - VALUES
    expected = [
        sum(0.8 ** (k - t) * between(t, k) * delta[k] for k in range(t, steps.stop))
        for steps, _ in episodes()
        for t in steps
    ]
    actual = gae(REWARDS, VALUES, V_TP1, LENGTHS, GAMMAS, 0.8)
    np.testing.assert_allclose(actual, expected, rtol=1e-13)


@pytest.mark.parametrize("bootstrap", ["target", "mixed"])
@pytest.mark.parametrize("pg_rho_bar", [None, 0.5, math.inf])
def test_vtrace_discounts_each_step_by_its_own(bootstrap, pg_rho_bar):
    options: Any = {"rho_bar": 1.2, "c_bar": 0.9, "trace_lambda": 0.8}
    target, advantage = vtrace(
        REWARDS,
        VALUES,
        V_TP1,
        LOG_RATIOS,
        LENGTHS,
        GAMMAS,
        **options,
        pg_rho_bar=pg_rho_bar,
        bootstrap=bootstrap,
    )
    ratio = np.exp(LOG_RATIOS)
    c, delta = 0.8 * np.minimum(ratio, 0.9), REWARDS + GAMMAS * V_TP1 - VALUES
    bound = 1.2 if pg_rho_bar is None else pg_rho_bar
    for steps, v in episodes():
        for t in steps:
            total = sum(
                between(t, k) * math.prod(c[t:k]) * min(ratio[k], 1.2) * delta[k]
                for k in range(t, steps.stop)
            )
            assert target[t] == pytest.approx(VALUES[t] + total, rel=1e-13)
            ahead = target[t + 1] if t + 1 in steps else v
            if bootstrap == "mixed" and t + 1 in steps:
                ahead = 0.8 * ahead + 0.2 * VALUES[t + 1]
            error = REWARDS[t] + GAMMAS[t] * ahead - VALUES[t]
            assert advantage[t] == pytest.approx(min(ratio[t], bound) * error, rel=1e-12)


def test_vtrace_without_its_weight_is_the_error_to_the_target():
    arguments = REWARDS, VALUES, V_TP1, LOG_RATIOS, LENGTHS, 0.9
    target, error = vtrace(*arguments, weighted=False)
    same, advantage = vtrace(*arguments)
    np.testing.assert_array_equal(target, same)
    np.testing.assert_allclose(advantage, np.minimum(np.exp(LOG_RATIOS), 1.0) * error, rtol=1e-14)


def test_retrace_discounts_each_step_by_its_own():
    actual = retrace(REWARDS, VALUES, V_TP1, LOG_RATIOS, LENGTHS, GAMMAS, 0.8)
    trace, delta = 0.8 * np.minimum(np.exp(LOG_RATIOS), 1.0), REWARDS + GAMMAS * V_TP1 - VALUES
    for steps, _ in episodes():
        for t in steps:
            total = sum(
                between(t, k) * math.prod(trace[t + 1 : k + 1]) * delta[k]
                for k in range(t, steps.stop)
            )
            assert actual[t] == pytest.approx(VALUES[t] + total, rel=1e-13)


def test_a_state_is_discounted_by_the_steps_before_it():
    expected = [between(steps.start, t) for steps, _ in episodes() for t in steps]
    np.testing.assert_allclose(state_discounts(LENGTHS, GAMMAS), expected, rtol=1e-15)
    powers = [0.9 ** (t - steps.start) for steps, _ in episodes() for t in steps]
    np.testing.assert_allclose(state_discounts(LENGTHS, 0.9), powers, rtol=1e-15)
    assert discounts(np.array([2, 1]), np.array([0.5, 0.25, 1.0])).tolist() == [0.5, 0.0, 0.0]


SHORT = {
    "returns": lambda: returns(REWARDS, LENGTHS, GAMMAS[1:]),
    "n_step_returns": lambda: n_step_returns(REWARDS, VALUES, V_TP1, LENGTHS, GAMMAS[1:], 1),
    "gae": lambda: gae(REWARDS, VALUES, V_TP1, LENGTHS, GAMMAS[1:], 1.0),
    "vtrace": lambda: vtrace(REWARDS, VALUES, V_TP1, LOG_RATIOS, LENGTHS, GAMMAS[1:]),
    "retrace": lambda: retrace(REWARDS, VALUES, V_TP1, LOG_RATIOS, LENGTHS, GAMMAS[1:]),
    "state_discounts": lambda: state_discounts(LENGTHS, GAMMAS[1:]),
}


@pytest.mark.parametrize("name", SHORT)
def test_there_is_one_discount_a_step(name):
    with pytest.raises(ShapeError, match=rf"{name}: expected .* 7"):
        SHORT[name]()


def discounted(batch, discount):
    """Return the batch with these discounts."""
    fields = {name: getattr(batch, name) for name in PLAIN}
    return Batch(**fields, extras=batch.extras, discount=discount)


PLAIN = ("observations", "actions", "rewards", "log_probs", "values", "action_mask", "step_weights")
PLAIN += ("episode_lengths", "terminated", "final_observations", "final_values")
WITH_GAMMA = {
    label: estimator
    for label, estimator in variants("estimators").items()
    if hasattr(estimator, "gamma") and not hasattr(estimator, "combine")
}


@pytest.mark.parametrize("estimator", WITH_GAMMA.values(), ids=WITH_GAMMA)
def test_a_discount_multiplies_gamma_in_every_estimator(estimator):
    valued = "action_value" in estimator.quantities
    values = "action" if valued else "state"
    plain = pg.PolicySpec(pg.MLP(4, (6,)), pg.Categorical(3), "separate", values)
    spec = twinned(plain, estimator)
    policy, batch = Case("", spec, estimator, "float64", 5).make("numpy")
    halved = dataclasses.replace(estimator, gamma=0.5 * estimator.gamma)
    expected = pg.signals(policy, halved, batch)
    actual = pg.signals(policy, estimator, discounted(batch, np.full(batch.num_steps, 0.5)))
    for name, value in expected.values.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-12, atol=1e-14, err_msg=name)


def test_every_registered_estimator_with_gamma_is_among_them():
    names = {estimator.name for estimator in WITH_GAMMA.values()}
    assert {"ppo", "reinforce", "actor_critic", "vtrace", "q_learning", "soft_actor"} <= names
    assert names <= set(registry().names("estimators"))


def test_a_check_refuses_discounts_that_its_reference_does_not_read():
    estimator = pg.estimator("ppo")
    spec = pg.PolicySpec(pg.MLP(4, (6,)), pg.Categorical(3), "separate")
    policy, batch = Case("", spec, estimator, "float64", 5).make("numpy")
    with pytest.raises(BatchError, match=r"check: expected Batch\.discount None for 'ppo'"):
        pg.check(policy, estimator, discounted(batch, np.ones(batch.num_steps)))


def test_a_replay_buffer_keeps_discounts():
    fields = {"observations": np.zeros((2, 1)), "actions": [0, 0], "rewards": [1.0, 2.0]}
    fields |= {"episode_lengths": [2], "terminated": [True], "log_probs": [0.0, 0.0]}
    replay = Replay(4)
    replay.add(Batch(**fields, discount=[0.5, 0.25]))
    drawn: Any = replay.sample(50, np.random.default_rng(0))
    assert set(zip(drawn.rewards.tolist(), drawn.discount.tolist(), strict=True)) == {
        (1.0, 0.5),
        (2.0, 0.25),
    }
    with pytest.raises(BatchError, match=r"Replay\.add: expected Batch\.discount in all batches"):
        replay.add(Batch(**fields))
