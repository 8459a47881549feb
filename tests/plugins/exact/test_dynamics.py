"""Exact values and gradients, held to sums over episodes, derivatives by complex steps, and each other."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
import pgcore_exact as exact
from pgcore.errors import MDPError


def softmax(logits):
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True)


LOGITS = np.array([[0.4, -0.3], [0.1, 0.2], [-0.5, 0.3]])
FINITE = exact.random(3, 2, 3, 0, terminals=1, gamma=0.8)
ENDLESS = exact.random(3, 2, None, 1, gamma=0.9)


def derivative(mdp):
    """Return - d J / d logits by complex steps through the values."""
    found = np.zeros(LOGITS.shape)
    for index in np.ndindex(*LOGITS.shape):
        moved = LOGITS.astype(complex)
        moved[index] += 1e-20j
        table = exact.Tabulated(softmax(moved), np.zeros((3, 2, 1)))
        found[index] = -exact.objective(mdp, table).imag / 1e-20
    return found.ravel()


@pytest.mark.parametrize(
    "mdp",
    [FINITE, ENDLESS, FINITE.replaced(horizon=None, gamma=1.0)],
    ids=["finite", "endless", "ending"],
)
def test_the_gradient_is_the_derivative_of_the_objective(mdp):
    found = exact.gradient(mdp, exact.softmax_table(softmax(LOGITS)))
    np.testing.assert_allclose(found, derivative(mdp), rtol=0, atol=1e-14)


@pytest.mark.parametrize("network", [pg.Linear(3), pg.MLP(3, (5,), "tanh")], ids=["linear", "mlp"])
def test_the_gradient_of_a_network_is_that_of_its_logits_carried_back(network):
    mdp = FINITE.replaced(observations=np.random.default_rng(3).standard_normal((3, 3)))
    policy = pg.policy(
        pg.PolicySpec(network, pg.Categorical(2, 0.7), "separate"), dtype="float64", seed=4
    )
    found, step = exact.gradient(mdp, policy), 1e-6
    direction = np.random.default_rng(5).standard_normal(found.shape)
    shapes = policy.spec.parameter_shapes
    flat = np.concatenate([value.ravel() for value in policy.parameters().values()])

    def objective(vector):
        parts = np.split(vector, np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1])
        policy.load(
            {
                name: part.reshape(shape)
                for (name, shape), part in zip(shapes.items(), parts, strict=True)
            }
        )
        return exact.objective(mdp, policy)

    slope = (objective(flat + step * direction) - objective(flat - step * direction)) / (2 * step)
    assert -found @ direction == pytest.approx(slope, rel=1e-8)


def test_values_are_the_sums_over_all_episodes():
    table = exact.softmax_table(softmax(LOGITS))
    episodes = exact.all_episodes(FINITE, table.probabilities)
    t = np.arange(len(episodes.rewards)) - np.repeat(episodes.starts, episodes.lengths)
    returns = np.add.reduceat(0.8**t * episodes.rewards, episodes.starts)
    assert exact.objective(FINITE, table) == pytest.approx(
        episodes.probabilities @ returns, rel=1e-13
    )
    assert exact.values(FINITE, table).shape == (4, 3)
    assert not exact.values(FINITE, table)[-1].any()


def test_a_far_horizon_is_none():
    table = exact.softmax_table(softmax(LOGITS))
    far = ENDLESS.replaced(horizon=400)
    np.testing.assert_allclose(
        exact.values(far, table)[0], exact.values(ENDLESS, table), rtol=1e-13
    )
    np.testing.assert_allclose(
        exact.gradient(far, table), exact.gradient(ENDLESS, table), rtol=0, atol=1e-13
    )
    np.testing.assert_allclose(
        exact.action_values(far, table)[0], exact.action_values(ENDLESS, table), rtol=0, atol=1e-13
    )


def test_the_states_discount_matters_below_gamma_one_only():
    table = exact.softmax_table(softmax(LOGITS))
    with_discount, without = (
        exact.gradient(FINITE, table, discount_state=flag) for flag in (True, False)
    )
    assert np.abs(with_discount - without).max() > 1e-3
    undiscounted = FINITE.replaced(gamma=1.0)
    one, other = (
        exact.gradient(undiscounted, table, discount_state=flag) for flag in (True, False)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "reward", [FINITE.reward, FINITE.next_rewards + np.arange(3)], ids=["action", "next state"]
)
def test_time_in_the_state_changes_no_value(reward):
    table, mdp = exact.softmax_table(softmax(LOGITS)), FINITE.replaced(reward=reward)
    timed = mdp.with_time()
    repeated = exact.Tabulated(np.tile(table.probabilities, (4, 1)), np.zeros((12, 2, 1)))
    plain, found = exact.values(mdp, table), exact.values(timed, repeated)
    for t in range(4):
        np.testing.assert_allclose(found[t, 3 * t : 3 * t + 3], plain[t], rtol=1e-14)
    assert exact.objective(timed, repeated) == pytest.approx(exact.objective(mdp, table), rel=1e-14)


def test_what_has_no_value_is_refused():
    table = exact.softmax_table(softmax(LOGITS))
    with pytest.raises(MDPError, match="expected every episode to end or to be discounted"):
        exact.values(ENDLESS.replaced(gamma=1.0), table)
    with pytest.raises(MDPError, match="time_blind_values: expected a finite horizon"):
        exact.time_blind_values(ENDLESS, table)
    with pytest.raises(MDPError, match="with_time: expected a finite horizon"):
        ENDLESS.with_time()


def test_policies_that_do_not_fit_are_refused():
    with pytest.raises(MDPError, match="expected a policy with 2 discrete actions"):
        exact.values(FINITE, pg.policy(pg.PolicySpec(pg.Table(3), pg.Categorical(3))))
    with pytest.raises(MDPError, match=r"expected shape \[3, 2\], got \[2, 2\]"):
        exact.values(FINITE, exact.softmax_table([[0.5, 0.5], [0.5, 0.5]]))
    with pytest.raises(MDPError, match="expected positive probabilities"):
        exact.softmax_table([[1.0, 0.0]])
    with pytest.raises(MDPError, match="rows that sum to 1"):
        exact.softmax_table([[0.5, 0.4]])
    for other in ([["a", "b"]], [[np.nan, 0.5]]):
        with pytest.raises(MDPError, match="softmax_table: expected finite numbers, got dtype"):
            exact.softmax_table(other)
    with pytest.raises(MDPError, match="softmax_table: expected a rectangular array"):
        exact.softmax_table([[0.5, 0.5], [1.0]])
