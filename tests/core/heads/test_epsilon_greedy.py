"""The epsilon-greedy head: its probabilities, ties, masks and derivatives."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import SpecError
from pgcore.heads import EpsilonGreedy
from pgcore.xp.numpy import host


def pi(head, q, mask=None):
    return np.exp(
        head.distribution(host, np.array(q), {}, None if mask is None else np.array(mask))
    )


def test_the_others_share_epsilon_and_the_first_of_equals_is_greedy():
    np.testing.assert_allclose(
        pi(EpsilonGreedy(4, 0.3), [[1.0, 5.0, 5.0, 0.0]]), [[0.1, 0.7, 0.1, 0.1]], rtol=1e-15
    )  # 0.3 / 4 each, or the last of equals, would be elsewhere


def test_the_usual_form_draws_from_all_actions():
    e, n = 0.2, 4
    found = pi(EpsilonGreedy.usual(n, e), [[0.0, 0.0, 3.0, 1.0]])
    np.testing.assert_allclose(found, [[e / n, e / n, 1 - e + e / n, e / n]], rtol=1e-15)


def test_a_mask_leaves_fewer_to_share_and_at_most_the_uniform_distribution():
    q, mask = [[9.0, 1.0, 2.0]] * 3, [[False, True, True], [True, True, True], [False, True, False]]
    np.testing.assert_allclose(
        pi(EpsilonGreedy(3, 0.2), q, mask), [[0, 0.2, 0.8], [0.8, 0.1, 0.1], [0, 1, 0]]
    )
    np.testing.assert_allclose(pi(EpsilonGreedy(3, 0.6), q, mask)[0], [0, 0.5, 0.5])


@pytest.mark.parametrize(("n", "epsilon", "expected"), [(1, 0.1, [[1.0]]), (2, 0.0, [[0.0, 1.0]])])
def test_nothing_to_explore(n, epsilon, expected):
    head = EpsilonGreedy(n, epsilon)
    with np.errstate(all="raise"):
        assert pi(head, [[0.0, 1.0][:n]]).tolist() == expected
    assert head.entropy(
        host, head.distribution(host, np.array([[0.0, 1.0][:n]]), {}, None)
    ).tolist() == [0.0]


@pytest.mark.parametrize(("n", "epsilon"), [(0, 0.1), (3, 0.7), (3, -0.1), (2, float("nan"))])
def test_fields_outside_their_interval_are_refused(n, epsilon):
    with pytest.raises(SpecError, match="EpsilonGreedy"):
        EpsilonGreedy(n, epsilon)


def test_a_policy_acts_by_its_values_and_has_no_score():
    policy = pg.policy(pg.PolicySpec(pg.Table(1), EpsilonGreedy(3, 0.3)), dtype="float64")
    policy.load({"network.table": [[1.0, 4.0, 2.0]]})
    assert policy.mode([0]).tolist() == [1]
    actions, log_probs = policy.act(np.zeros(20000, int), pg.generator(0))
    np.testing.assert_allclose(np.bincount(actions) / 20000, [0.15, 0.7, 0.15], atol=0.01)
    np.testing.assert_allclose(log_probs, np.log(np.where(actions == 1, 0.7, 0.15)))
    batch = pg.Batch(
        observations=[0, 0],
        actions=[1, 2],
        rewards=[1.0, 1.0],
        episode_lengths=[2],
        terminated=[False],
        final_observations=[0],
    )
    assert not policy.episode_scores(batch).any()
    found = policy.evaluate(batch, ("action_value", "action_values", "final_action_values"))
    assert found["action_value"].tolist() == [4.0, 2.0]
    assert found["final_action_values"].tolist() == [[1.0, 4.0, 2.0]]


def test_old_specs_load_and_new_ones_say_what_the_critic_values():
    spec = pg.PolicySpec(pg.Linear(2), pg.Categorical(3), "separate", "action")
    assert pg.PolicySpec.from_json(spec.to_json()) == spec
    assert spec.parameter_shapes["critic.0.weight"] == (2, 3)
    old = '{"network": {"name": "linear", "inputs": 2}, "head": {"name": "categorical", "n": 3}, "critic": "separate"}'
    assert pg.PolicySpec.from_json(old).critic_values == "state"


@pytest.mark.parametrize(
    ("head", "critic"),
    [
        (pg.Categorical(2), "none"),
        (pg.DiagonalGaussian(2), "separate"),
        (EpsilonGreedy(2), "separate"),
    ],
)
@pytest.mark.parametrize("values", ["action", "twin"])
def test_action_values_need_a_critic_of_discrete_actions(head, critic, values):
    with pytest.raises(SpecError, match=f"critic_values: .* got '{values}'"):
        pg.PolicySpec(pg.Linear(2), head, critic, values)
