import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import SpecError
from pgcore_train.rollout.exploration import Exploration

HEAD = pg.EpsilonGreedy(4, 0.1)


def new_policy(head: pg.EpsilonGreedy = HEAD) -> pg.Policy:
    return pg.policy(pg.PolicySpec(pg.Linear(2), head), backend="numpy", seed=3, dtype="float64")


def observations(rows: int = 20_000):
    return np.random.default_rng(0).normal(size=(rows, 2))


def test_epsilon_falls_linearly_to_the_heads():
    exploration = Exploration(new_policy(), HEAD, 0.5, 100.0)
    assert exploration.epsilon == 0.5
    found = []
    for steps in (0, 25, 50, 100, 1000):
        exploration.at(steps)
        found.append(exploration.epsilon)
    assert found == pytest.approx([0.5, 0.4, 0.3, 0.1, 0.1])


def test_all_actions_are_equally_likely_at_first():
    actions, log_probs = Exploration(new_policy(), HEAD, None, 100.0).act(
        observations(), pg.generator(0)
    )
    np.testing.assert_allclose(log_probs, np.log(0.25), rtol=1e-12)
    # Each count is binomial with standard deviation 61.
    np.testing.assert_allclose(np.bincount(actions), 5_000, atol=300)


def test_the_log_probabilities_are_those_of_the_current_epsilon():
    policy, given = new_policy(), observations()
    exploration = Exploration(policy, HEAD, 0.6, 100.0)
    exploration.at(50)
    actions, log_probs = exploration.act(given, pg.generator(0))
    greedy = actions == policy.mode(given)
    np.testing.assert_allclose(
        log_probs, np.where(greedy, np.log(1 - 0.35), np.log(0.35 / 3)), rtol=1e-12
    )
    assert np.mean(~greedy) == pytest.approx(0.35, abs=0.02)


@pytest.mark.parametrize("steps", [100, 101])
def test_it_is_the_policy_in_the_end(steps):
    policy, given = new_policy(), observations(500)
    exploration = Exploration(policy, HEAD, None, 100.0)
    exploration.at(steps)
    for found, wanted in zip(
        exploration.act(given, pg.generator(1)), policy.act(given, pg.generator(1)), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_no_steps_begin_with_the_heads():
    assert Exploration(new_policy(), HEAD, None, 0.0).epsilon == 0.1


def test_it_follows_the_policys_parameters():
    policy, given = new_policy(), observations(500)
    exploration = Exploration(policy, pg.EpsilonGreedy(4, 0.0), 0.0, 10.0)
    before, _ = exploration.act(given, pg.generator(0))
    policy.load({name: -value for name, value in policy.parameters().items()})
    after, _ = exploration.act(given, pg.generator(0))
    np.testing.assert_array_equal(after, policy.mode(given))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 49])
def test_a_uniform_head_stays_uniform(n):
    head = pg.EpsilonGreedy(n, (n - 1) / n)
    exploration = Exploration(new_policy(head), head, None, 97.0)
    assert {exploration.at(steps) for steps in range(120)} == {head}


def test_a_first_epsilon_beyond_uniform_is_refused():
    with pytest.raises(
        SpecError, match=r"EpsilonGreedy.epsilon: expected at most \(n - 1\) / n = 0.75, got 0.8"
    ):
        Exploration(new_policy(), HEAD, 0.8, 10.0)
