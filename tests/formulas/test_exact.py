"""Exact expectations, by enumerating every batch that can happen: biases are computed here and never sampled."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import pytest

import pgcore as pg
from pgcore.xp import numpy as host

STATES, ACTIONS = 3, 2


@dataclass(frozen=True)
class Trajectory:
    """One way an episode can go, and its probability under the policy."""

    states: tuple[int, ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]
    probability: float
    final_state: int
    terminated: bool


def transition(state, action):
    """Return (probability, next state) pairs of a small MDP."""
    first = (state + action + 1) % STATES
    return [(0.7, first), (0.3, (first + 1) % STATES)]


def reward(state, action):
    return [[1.0, -0.5], [0.25, 2.0], [-1.0, 0.75]][state][action]


def trajectories(pi, horizon, *, ends=lambda state: False, terminated=True):
    """Yield every trajectory from state 0: it ends at the horizon, or before it where `ends` says so."""

    def walk(path, probability):
        states, actions, rewards, state = path
        if len(actions) == horizon or (actions and ends(state)):
            yield Trajectory(
                states, actions, rewards, probability, state, terminated or len(actions) < horizon
            )
            return
        for action in range(ACTIONS):
            for chance, following in transition(state, action):
                own = probability * pi[state, action] * chance
                passed = (*states, state), (*actions, action), (*rewards, reward(state, action))
                yield from walk((*passed, following), own)

    yield from walk(((), (), (), 0), 1.0)


def make_policy(logits, values=None, temperature=1.0):
    critic = "none" if values is None else "separate"
    policy = pg.policy(
        pg.PolicySpec(pg.Table(len(logits)), pg.Categorical(logits.shape[1], temperature), critic),
        dtype="float64",
    )
    policy.load(
        {"network.table": logits}
        | ({} if values is None else {"critic.table": np.reshape(values, (-1, 1))})
    )
    return policy


def make_batch(episodes, **changes):
    fields = {
        "observations": [state for each in episodes for state in each.states],
        "actions": [action for each in episodes for action in each.actions],
        "rewards": [value for each in episodes for value in each.rewards],
        "episode_lengths": [len(each.states) for each in episodes],
        "terminated": [each.terminated for each in episodes],
        "final_observations": [each.final_state for each in episodes],
    }
    return pg.Batch(**fields | changes)


def softmax(logits, temperature=1.0):
    weights = np.exp(logits / temperature)
    return weights / weights.sum(axis=1, keepdims=True)


def expected_gradient(policy, estimator, ways, episodes=1):
    """Return the expectation of the policy's gradient over all batches of that many episodes."""
    total = np.zeros(policy.parameters()["network.table"].shape)
    for chosen in itertools.product(ways, repeat=episodes):
        probability = math.prod(each.probability for each in chosen)
        total += (
            probability
            * pg.gradient(policy, estimator, make_batch(chosen)).numpy()["network.table"]
        )
    return total


def true_gradient(logits, horizon, gamma=1.0, temperature=1.0, **how):
    """Return - d E[return] / d logits, by complex steps through the enumeration itself."""
    found = np.zeros(logits.shape)
    for index in np.ndindex(*logits.shape):
        moved = logits.astype(complex)
        moved[index] += 1e-20j
        ways = trajectories(softmax(moved, temperature), horizon, **how)
        value = sum(
            way.probability * sum(gamma**t * r for t, r in enumerate(way.rewards)) for way in ways
        )
        found[index] = -value.imag / 1e-20
    return found


LOGITS = np.array([[0.4, -0.3], [0.1, 0.2], [-0.5, 0.3]])


def close(left, right, rtol=1e-12):
    np.testing.assert_allclose(left, right, rtol=0, atol=rtol * np.abs(right).max())


def bias(left, right):
    return np.abs(left - right).max() / np.abs(right).max()


def test_b4_the_enumeration_is_complete():
    ways = list(trajectories(softmax(LOGITS), 3))
    assert sum(way.probability for way in ways) == pytest.approx(1.0, rel=1e-14)


@pytest.mark.parametrize(
    "fields",
    [
        {"reward_to_go": False},
        {"reward_to_go": True},
        {"baseline": "constant", "baseline_value": 0.7},
    ],
)
def test_b5_b6_b7_reinforce_is_unbiased(fields):
    policy = make_policy(LOGITS, temperature=0.8)
    ways = list(trajectories(softmax(LOGITS, 0.8), 3))
    estimator = pg.estimator("reinforce", gamma=1.0, **fields)
    assert estimator.claims.unbiased
    close(expected_gradient(policy, estimator, ways), true_gradient(LOGITS, 3, temperature=0.8))


def test_b6_reward_to_go_can_raise_the_variance():
    # Two fair coins, one after the other. Only the second pays: +1 for heads, and what came first decides the sign of nothing.
    # With the first step's reward chosen to cancel the second's, every full return is 0, and reward-to-go is not.
    policy = make_policy(np.zeros((3, 2)))
    ways = []
    for first, second in itertools.product(range(2), repeat=2):
        pay = 1.0 if first == 0 else -1.0
        ways.append(Trajectory((0, 1), (first, second), (-pay, pay), 0.25, 2, True))

    def variance(estimator):
        gradients = [
            pg.gradient(policy, estimator, make_batch([way])).numpy()["network.table"].ravel()
            for way in ways
        ]
        mean = np.mean(gradients, axis=0)
        return float(
            np.mean([(gradient - mean) @ (gradient - mean) for gradient in gradients])
        ), mean

    full, full_mean = variance(pg.estimator("reinforce", gamma=1.0, reward_to_go=False))
    causal, causal_mean = variance(pg.estimator("reinforce", gamma=1.0, reward_to_go=True))
    np.testing.assert_allclose(full_mean, causal_mean, atol=1e-15)  # both unbiased
    assert full == 0.0
    assert causal == pytest.approx(0.5, rel=1e-14)


@pytest.mark.parametrize("reward_to_go", [False, True])
@pytest.mark.parametrize("episodes", [2, 3])
def test_b7_own_mean_baseline_shrinks_and_leave_one_out_does_not(episodes, reward_to_go):
    horizon = 2 if episodes == 2 else 1
    policy = make_policy(LOGITS)
    ways = list(trajectories(softmax(LOGITS), horizon))
    exact = true_gradient(LOGITS, horizon)
    mean, others = (
        pg.estimator("reinforce", gamma=1.0, reward_to_go=reward_to_go, baseline=baseline)
        for baseline in ("mean", "leave_one_out")
    )
    close(expected_gradient(policy, mean, ways, episodes), (1 - 1 / episodes) * exact)
    close(expected_gradient(policy, others, ways, episodes), exact)
    assert not mean.claims.unbiased
    assert others.claims.unbiased


@pytest.mark.parametrize("discount_state", [False, True])
def test_b7_discounted_reward_to_go_shrinks_by_no_single_factor(discount_state):
    """What is taken off is the whole return, from the start: 1/N of the exact gradient, which a discounted reward-to-go's is not."""
    policy, ways = make_policy(LOGITS), list(trajectories(softmax(LOGITS), 2))

    def expected(**fields):
        estimator = pg.estimator("reinforce", gamma=0.6, discount_state=discount_state, **fields)
        return expected_gradient(policy, estimator, ways, episodes=2)

    exact = true_gradient(LOGITS, 2, gamma=0.6)
    close(expected(baseline="mean", reward_to_go=False), 0.5 * exact)
    close(
        expected(baseline="leave_one_out", reward_to_go=True), plain := expected(reward_to_go=True)
    )
    shrunk = expected(baseline="mean", reward_to_go=True)
    factor = float((shrunk * plain).sum() / (plain * plain).sum())
    assert bias(shrunk, factor * plain) > 0.01


@pytest.mark.parametrize(
    ("episodes", "factor"), [(2, 0.5), (4, 0.75), (16, 0.9375), (64, 0.984375)]
)
def test_b7_the_factor_is_one_minus_one_over_n(episodes, factor):
    # On a two-armed bandit a batch is described by how often the better arm came up, so that even 2^64 batches can be summed.
    logits = np.array([[0.6, -0.2]])
    pi = softmax(logits)[0]
    policy = make_policy(logits)
    exact = -pi[0] * pi[1] * np.array([[1.0, -1.0]])
    for baseline, expected in (("mean", factor), ("leave_one_out", 1.0)):
        estimator = pg.estimator("reinforce", gamma=1.0, baseline=baseline)
        total = np.zeros((1, 2))
        for wins in range(episodes + 1):
            actions = [0] * wins + [1] * (episodes - wins)
            batch = pg.Batch(
                observations=[0] * episodes,
                actions=actions,
                rewards=[1.0 - action for action in actions],
                episode_lengths=[1] * episodes,
                terminated=[True] * episodes,
            )
            weight = math.comb(episodes, wins) * pi[0] ** wins * pi[1] ** (episodes - wins)
            total += weight * pg.gradient(policy, estimator, batch).numpy()["network.table"]
        close(total, expected * exact)


@pytest.mark.parametrize("baseline", ["optimal", "optimal_per_component"])
@pytest.mark.parametrize("reward_to_go", [False, True])
def test_b8_optimal_baselines_left_one_out_are_unbiased(baseline, reward_to_go):
    policy = make_policy(LOGITS)
    ways = list(trajectories(softmax(LOGITS), 2))
    estimator = pg.estimator("reinforce", gamma=1.0, baseline=baseline, reward_to_go=reward_to_go)
    assert estimator.claims.unbiased
    close(expected_gradient(policy, estimator, ways, episodes=2), true_gradient(LOGITS, 2))


def test_b8_on_a_two_armed_bandit_the_optimal_baseline_is_the_swapped_mean():
    # Rewards 1 and 0, p the probability of the better arm: E[g^2 R] / E[g^2] = 1 - p, and no variance is left.
    logits = np.array([[math.log(0.8), math.log(0.2)]])
    policy = make_policy(logits)
    ways = [
        Trajectory((0,), (0,), (1.0,), 0.8, 0, True),
        Trajectory((0,), (1,), (0.0,), 0.2, 0, True),
    ]
    scores = {way.actions[0]: policy.episode_scores(make_batch([way]))[0] for way in ways}
    squares = np.array([way.probability * scores[way.actions[0]] ** 2 for way in ways])
    swapped = (squares * np.array([way.rewards for way in ways])).sum(axis=0) / squares.sum(axis=0)
    np.testing.assert_allclose(swapped, [0.2, 0.2], rtol=1e-14)

    def variance(value):
        estimator = pg.estimator("reinforce", gamma=1.0, baseline="constant", baseline_value=value)
        gradients = [
            pg.gradient(policy, estimator, make_batch([way])).numpy()["network.table"][0]
            for way in ways
        ]
        mean = np.array([way.probability for way in ways]) @ np.array(gradients)
        assert np.allclose(mean, [-0.16, 0.16], rtol=1e-14)  # unbiased with any constant
        return sum(
            way.probability * (gradient[0] - mean[0]) ** 2
            for way, gradient in zip(ways, gradients, strict=True)
        )

    none, mean, optimal = variance(0.0), variance(0.8), variance(0.2)
    assert none == pytest.approx(0.0064, rel=1e-12)
    assert mean == pytest.approx(0.0576, rel=1e-12)
    assert optimal == pytest.approx(0.0, abs=1e-30)
    # Over both logits, whose derivatives are opposite, these are the notes' 0.0128 and 0.1152.
    assert [2 * none, 2 * mean] == pytest.approx([0.0128, 0.1152], rel=1e-12)


def test_e2_the_reward_of_the_step_alone_is_biased():
    policy, ways = make_policy(LOGITS), list(trajectories(softmax(LOGITS), 3))
    alone = pg.estimator("reinforce", gamma=0.0)  # reward-to-go with gamma 0 is r_t
    assert bias(expected_gradient(policy, alone, ways), true_gradient(LOGITS, 3)) > 0.05


def test_discounting_the_state_gives_the_gradient_of_the_discounted_return():
    policy, ways = make_policy(LOGITS), list(trajectories(softmax(LOGITS), 3))
    exact = true_gradient(LOGITS, 3, gamma=0.7)
    for fields in ({"discount_state": True}, {"reward_to_go": False}):
        close(
            expected_gradient(policy, pg.estimator("reinforce", gamma=0.7, **fields), ways), exact
        )
    assert bias(expected_gradient(policy, pg.estimator("reinforce", gamma=0.7), ways), exact) > 0.01


def test_dividing_by_the_number_of_steps_is_biased_where_lengths_vary():
    policy = make_policy(LOGITS)
    ways = list(trajectories(softmax(LOGITS), 3, ends=lambda state: state == 2))
    exact = true_gradient(LOGITS, 3, ends=lambda state: state == 2)
    by_episode = expected_gradient(policy, pg.estimator("reinforce", gamma=1.0), ways)
    by_step = expected_gradient(
        policy, pg.estimator("reinforce", gamma=1.0, reduction="step"), ways
    )
    close(by_episode, exact)
    mean_length = sum(way.probability * len(way.states) for way in ways)
    assert bias(mean_length * by_step, exact) > 0.01  # no single factor mends it


def indexed(ways):
    """Return the trajectories with the time in the state, so that a table can hold a value for every time."""
    ways = list(ways)
    shifted = [
        tuple(t * STATES + state for t, state in enumerate((*way.states, way.final_state)))
        for way in ways
    ]
    return [
        Trajectory(
            states[:-1], way.actions, way.rewards, way.probability, states[-1], way.terminated
        )
        for way, states in zip(ways, shifted, strict=True)
    ]


def exact_values(pi, horizon):
    """Return V of every (time, state) of the undiscounted problem, one row of STATES a time."""
    values = np.zeros((horizon + 1, STATES))
    for t in reversed(range(horizon)):
        for state in range(STATES):
            values[t, state] = sum(
                pi[state, action]
                * (
                    reward(state, action)
                    + sum(p * values[t + 1, s] for p, s in transition(state, action))
                )
                for action in range(ACTIONS)
            )
    return values.ravel()


@pytest.mark.parametrize("gae_lambda", [0.0, 0.6, 1.0])
def test_gae_is_unbiased_with_exact_values_and_else_only_at_lambda_one(gae_lambda):
    horizon, pi = 3, softmax(LOGITS)
    ways = indexed(trajectories(pi, horizon))
    logits, values = np.tile(LOGITS, (horizon + 1, 1)), exact_values(pi, horizon)
    estimator = pg.estimator(
        "actor_critic", gamma=1.0, gae_lambda=gae_lambda, reduction="trajectory"
    )
    # With a table row for every time, the true gradient is REINFORCE's expectation, which is proven unbiased above.
    exact = expected_gradient(make_policy(logits), pg.estimator("reinforce", gamma=1.0), ways)
    close(expected_gradient(make_policy(logits, values), estimator, ways), exact)
    wrong = expected_gradient(
        make_policy(logits, values + np.linspace(-1.0, 1.0, len(values))), estimator, ways
    )
    if gae_lambda == 1.0:
        close(wrong, exact)
    else:
        assert bias(wrong, exact) > 0.02


def test_a_time_limit_taken_for_an_end_is_biased():
    # The task goes on to the horizon of 3, but episodes are cut after 2 steps. Bootstrapped from the exact value, nothing is lost.
    horizon, pi = 3, softmax(LOGITS)
    values = exact_values(pi, horizon)
    cut = indexed(trajectories(pi, 2, terminated=False))
    logits = np.tile(LOGITS, (horizon + 1, 1))
    whole = expected_gradient(
        make_policy(logits),
        pg.estimator("reinforce", gamma=1.0),
        indexed(trajectories(pi, horizon)),
    )
    first_two = slice(0, 2 * STATES)
    estimator = pg.estimator("reinforce", gamma=1.0, baseline="value", value_coefficient=0.0)
    policy = make_policy(logits, values)
    close(expected_gradient(policy, estimator, cut)[first_two], whole[first_two])
    ended = [
        Trajectory(
            way.states, way.actions, way.rewards, way.probability, way.final_state, terminated=True
        )
        for way in cut
    ]
    assert bias(expected_gradient(policy, estimator, ended)[first_two], whole[first_two]) > 0.02


def test_ppo_at_ratio_one_is_the_policy_gradient():
    values = np.linspace(-0.5, 0.5, STATES)
    policy = make_policy(LOGITS, values)
    batch = make_batch(list(trajectories(softmax(LOGITS), 2))[:5])
    ppo = pg.gradient(policy, pg.estimator("ppo", gamma=0.9, normalise="none"), batch).numpy()
    plain = pg.gradient(policy, pg.estimator("actor_critic", gamma=0.9), batch).numpy()
    for name, value in plain.items():
        np.testing.assert_allclose(ppo[name], value, rtol=1e-14, atol=1e-17, err_msg=name)


def test_episodes_do_not_see_each_other():
    counts = defaultdict(int)
    ways = list(trajectories(softmax(LOGITS), 2))[:4]
    policy = make_policy(LOGITS, np.array([0.3, -0.2, 0.6]))
    for name in ("reinforce", "actor_critic", "ppo"):
        estimator = pg.estimator(name, **({"normalise": "none"} if name == "ppo" else {}))
        together = pg.signals(policy, estimator, make_batch(ways))["advantage"]
        alone = np.concatenate(
            [pg.signals(policy, estimator, make_batch([way]))["advantage"] for way in ways]
        )
        np.testing.assert_allclose(together, alone, rtol=1e-15)
        counts[name] += 1
    assert len(counts) == 3


def test_expected_score_is_zero_at_every_state():
    policy = make_policy(LOGITS, temperature=0.4)
    for state in range(STATES):
        pi = np.exp(policy.spec.head.distribution(host.host, LOGITS[[state]], {}, None))[0]
        expected = sum(
            pi[action]
            * policy.episode_scores(
                make_batch([Trajectory((state,), (action,), (0.0,), 1.0, 0, True)])
            )[0]
            for action in range(ACTIONS)
        )
        np.testing.assert_allclose(expected, np.zeros(STATES * ACTIONS), atol=1e-16)
