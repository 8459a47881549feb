"""Finite processes: made, refused, read from Gymnasium, counted."""

from __future__ import annotations

from fractions import Fraction
from typing import ClassVar

import gymnasium
import numpy as np
import pytest

import pgcore as pg
import pgcore_exact as exact
from pgcore.errors import MDPError
from pgcore_exact.process.episodes import all_tuples

HALF = [[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]


def fields(**changes):
    return {
        "transition": HALF,
        "reward": [[1.0, 0.0], [0.0, 1.0]],
        "initial": [1.0, 0.0],
        "horizon": 2,
    } | changes


def broken(state, action, row):
    transition = np.array(HALF)
    transition[state, action] = row
    return transition


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"transition": broken(1, 0, [0.5, 0.4])},
            r"transition\[state 1, action 0\]: expected probabilities.* sum of 0.9",
        ),
        ({"transition": broken(0, 1, [1.5, -0.5])}, r"transition\[state 0, action 1\].*got -0.5"),
        ({"transition": [[0.5, 0.5]]}, r"transition: expected shape \[S, A, S\], got \[1, 2\]"),
        (
            {"transition": [HALF[0], [[0.5, 0.5], [1.0]]]},
            "MDP.transition: expected a rectangular array",
        ),
        ({"reward": [[1.0, 0.0], [0.0]]}, "MDP.reward: expected a rectangular array"),
        ({"observations": [[0.0], [1.0, 2.0]]}, "MDP.observations: expected a rectangular array"),
        ({"terminal": [[True], []]}, "MDP.terminal: expected a rectangular array"),
        ({"reward": [1.0, 2.0]}, r"reward: expected shape \[2, 2\] or \[2, 2, 2\], got \[2\]"),
        ({"reward": [[np.nan, 0.0], [0.0, 0.0]]}, "reward: expected finite numbers"),
        ({"initial": [0.5, 0.4]}, "initial: expected probabilities that sum to 1"),
        ({"terminal": [1, 0]}, "terminal: expected booleans"),
        ({"observations": [0]}, "observations: expected 2 rows"),
        ({"horizon": 0}, "horizon: expected an integer of at least 1"),
        ({"gamma": 1.5}, r"gamma: expected a number in \[0, 1\]"),
        (
            {"initial": [Fraction(1, 2), Fraction(1, 2)]},
            "MDP.initial: expected finite numbers, got dtype object",
        ),
    ],
)
def test_what_is_no_process_is_refused(changes, told):
    with pytest.raises(MDPError, match=told):
        exact.MDP(**fields(**changes))


def test_the_objective_is_the_one_worked_out_by_hand():
    table = exact.softmax_table([[1 / 3, 2 / 3], [1 / 4, 3 / 4]])
    # Some twenty operations on numbers of at most 1, half a unit of roundoff each.
    assert exact.objective(exact.MDP(**fields()), table) == pytest.approx(
        1 / 3 + (1 / 3 + 3 / 4) / 2, rel=3e-15
    )
    assert exact.objective(exact.MDP(**fields(gamma=0.5)), table) == pytest.approx(
        29 / 48, rel=3e-15
    )


def test_rows_of_terminal_states_are_not_read():
    mdp = exact.MDP(**fields(transition=broken(1, 0, [0.0, 0.0]), terminal=[False, True]))
    assert mdp.moves[1].sum() == 0
    assert mdp.mean_rewards[1].tolist() == [0.0, 0.0]


def test_random_processes_are_the_same_for_a_seed_and_differ_between_seeds():
    one, same, other = (exact.random(3, 2, 4, seed, terminals=1) for seed in (0, 0, 1))
    assert np.array_equal(one.transition, same.transition)
    assert not np.array_equal(one.transition, other.transition)
    assert one.ends.tolist() == [False, False, True]
    assert one.initial[2] == 0.0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((0, 2, 1, 0), "states"),
        ((2, 0, 1, 0), "actions"),
        ((2, 2, 1, -1), "seed"),
        ((2, 2, 1, 1.5), "seed: expected an integer of at least 0, got 1.5"),
    ],
)
def test_random_processes_of_no_size_are_refused(arguments, told):
    with pytest.raises(MDPError, match=told):
        exact.random(*arguments)
    with pytest.raises(
        MDPError, match="random: expected a process that fits into memory, got 10000000 states"
    ):
        exact.random(10**7, 2, 1, 0)
    with pytest.raises(MDPError, match="terminals: expected 0 to 1, got 2"):
        exact.random(2, 2, 1, 0, terminals=2)


def test_frozen_lake_is_read_from_its_table():
    mdp = exact.from_gymnasium("FrozenLake-v1")
    assert (mdp.states, mdp.actions, mdp.horizon) == (16, 4, 100)
    assert np.flatnonzero(mdp.ends).tolist() == [5, 7, 11, 12, 15]
    assert mdp.initial[0] == 1.0
    # From the state left of the goal, "right" slides there one time in three.
    assert mdp.transition[14, 2, 15] == pytest.approx(1 / 3)
    assert mdp.mean_rewards[14, 2] == pytest.approx(1 / 3)


def test_walking_the_cliff_straight_costs_thirteen():
    mdp = exact.from_gymnasium("CliffWalking-v1", horizon=20)
    assert np.flatnonzero(mdp.ends).tolist() == [47]
    actions = np.full(48, 1)  # right, along the cliff's edge
    actions[36], actions[35] = 0, 2
    probabilities = np.eye(4)[actions]
    assert exact.objective(mdp, exact.Tabulated(probabilities, np.zeros((48, 4, 1)))) == -13.0


class Odd(gymnasium.Env):
    """Two cells. Every way in which an outcome may share its next state with another occurs."""

    observation_space, action_space = gymnasium.spaces.Discrete(3), gymnasium.spaces.Discrete(2)
    initial_state_distrib = (0.75, 0.25, 0.0)
    P: ClassVar = {
        0: {
            0: [
                (0.25, 1, 1.0, False),
                (0.25, 1, -7.0, False),
                (0.25, 1, 1.0, False),
                (0.25, 0, 2.0, True),
            ],
            1: [
                (0.5, 2, 3.0, True),
                (0.25, 2, 5.0, True),
                (0.25, 0, 0.5, False),
                (0.0, 0, 99.0, True),
            ],
        },
        1: {
            0: [(0.5, 1, -1.0, False), (0.5, 1, -1.0, True)],
            1: [(0.5, 0, 4.0, False), (0.25, 0, -4.0, False), (0.25, 2, 1.0, True)],
        },
        2: {0: [(1.0, 2, 0.0, True)], 1: [(1.0, 0, 0.0, True)]},
    }


@pytest.fixture
def odd():
    """Register the environment and forget it."""
    gymnasium.register("pgcore-odd-v0", lambda **_: Odd(), max_episode_steps=3)
    yield "pgcore-odd-v0"
    del gymnasium.registry["pgcore-odd-v0"]


def ways(table, starts, pi, horizon):
    """Yield (probability, [(state, action)], return) of every way through the table of an environment."""

    def walk(state, path, paid, probability):
        for action, chosen in enumerate(pi[state]):
            for chance, following, reward, terminated in table[state][action]:
                taken, so_far = [*path, (state, action)], probability * chosen * chance
                if terminated or len(taken) == horizon:
                    yield so_far, taken, paid + reward
                else:
                    yield from walk(following, taken, paid + reward, so_far)

    for state, probability in enumerate(starts):
        yield from walk(state, [], 0.0, probability)


@pytest.mark.parametrize("time_in_state", [False, True])
def test_outcomes_that_share_a_next_state_are_told_apart(odd, time_in_state):
    mdp = exact.from_gymnasium(odd)
    assert (mdp.horizon, mdp.seen.tolist()) == (3, [0, 1, 2, 0, 0, 1, 1, 2])
    assert np.flatnonzero(mdp.ends).tolist() == [2, 4, 6, 7]
    policy = pg.policy(pg.PolicySpec(pg.Table(mdp.states), pg.Categorical(2)), dtype="float64")
    logits = np.random.default_rng(3).standard_normal((mdp.states, 2))
    policy.load({"network.table": logits})
    pi = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    listed = list(ways(Odd.P, Odd.initial_state_distrib, pi, 3))
    weights, returns = (np.array([way[column] for way in listed]) for column in (0, 2))
    scores = np.zeros((len(listed), mdp.states, 2))
    for row, (_, taken, _) in zip(scores, listed, strict=True):
        for state, action in taken:
            row[state] += np.eye(2)[action] - pi[state]
    gradients = -scores.reshape(len(listed), -1) * returns[:, None]
    estimator = pg.estimator("reinforce", gamma=1.0, reward_to_go=False)
    if time_in_state:  # the copies still look the same, at every time
        mdp = mdp.with_time()
        policy = pg.policy(pg.PolicySpec(pg.Table(mdp.states), pg.Categorical(2)), dtype="float64")
        policy.load({"network.table": np.tile(logits, (4, 1))})
    found = exact.moments(mdp, policy, estimator)
    assert exact.objective(mdp, policy) == pytest.approx(weights @ returns, rel=1e-14)
    mean = found.mean.reshape(-1, *logits.shape).sum(axis=0).ravel()
    np.testing.assert_allclose(mean, weights @ gradients, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found.mean, exact.gradient(mdp, policy), rtol=0, atol=1e-14)
    if not time_in_state:
        expected = np.cov(gradients.T, aweights=weights, ddof=0)
        np.testing.assert_allclose(found.covariance, expected, rtol=0, atol=1e-13)


def test_a_slippery_cliff_is_fallen_from_for_a_hundred_or_walked_for_one():
    mdp = exact.from_gymnasium("CliffWalking-v1", is_slippery=True, horizon=1)
    assert (mdp.states, mdp.seen[48], np.flatnonzero(mdp.ends).tolist()) == (49, 36, [47])
    pi = np.zeros((49, 4))
    pi[:, 1] = 1.0  # from the start, to the right
    episodes = exact.all_episodes(mdp, pi)
    assert sorted(zip(episodes.rewards.tolist(), episodes.probabilities.tolist(), strict=True)) == [
        (-100.0, pytest.approx(1 / 3)),
        (-1.0, pytest.approx(2 / 3)),
    ]


def test_a_taxi_arrives_where_others_drive_on():
    mdp = exact.from_gymnasium("Taxi-v4")
    assert (mdp.states, mdp.actions, mdp.horizon) == (504, 6, 200)
    assert np.flatnonzero(mdp.ends).tolist() == [500, 501, 502, 503]
    assert mdp.seen[500:].tolist() == [0, 85, 410, 475]
    # With the passenger on board at the right place, to drop off pays 20 and ends.
    assert mdp.mean_rewards[16, 5] == mdp.mean_rewards[97, 5] == 20.0


def test_a_horizon_of_nothing_is_refused():
    with pytest.raises(MDPError, match="horizon: expected an integer of at least 1, got 0"):
        exact.from_gymnasium("FrozenLake-v1", horizon=0)


def test_an_environment_without_a_table_is_refused():
    with pytest.raises(MDPError, match="expected an environment with the tables"):
        exact.from_gymnasium("CartPole-v1")


def test_there_are_1296_episodes_of_four_steps():
    mdp = exact.random(3, 2, 4, 0)
    episodes = exact.all_episodes(mdp, np.full((3, 2), 0.5))
    assert len(episodes) == 1296 == (3 * 2) ** 4
    assert episodes.probabilities.sum() == pytest.approx(1.0, rel=1e-13)
    assert episodes.terminated.all()


def test_endings_that_nothing_tells_apart_are_one_and_others_are_not():
    mdp, pi = exact.random(3, 2, 2, 0, terminals=1), np.full((3, 2), 0.5)
    merged = exact.all_episodes(mdp, pi)
    assert len(merged) == 2 * 2 * (
        1 + 2 * 2
    )  # start, action, then over at once or two states with two actions
    by_next_state = mdp.replaced(reward=mdp.next_rewards + np.arange(3))
    split = exact.all_episodes(by_next_state, pi)
    assert len(split) == 2 * 2 * (1 + 2 * 2 * 3)
    assert split.probabilities.sum() == pytest.approx(1.0, rel=1e-13)


def test_cut_episodes_keep_what_followed():
    mdp, pi = exact.random(3, 2, 4, 0, terminals=1), np.full((3, 2), 0.5)
    cut = exact.all_episodes(mdp, pi, cut=1)
    assert len(cut) == 2 * 2 * 3
    assert cut.terminated.sum() == 2 * 2
    assert set(cut.final_states[~cut.terminated].tolist()) == {0, 1}
    assert exact.all_episodes(mdp.replaced(horizon=1), pi, cut=1).terminated.all()


def test_too_many_episodes_are_counted_before_any_is_listed():
    pi = np.full((3, 2), 0.5)
    with pytest.raises(
        MDPError, match=r"got 60,466,176 of up to 10 steps; a horizon of 6 would do"
    ):
        exact.all_episodes(exact.random(3, 2, 10, 0), pi)
    with pytest.raises(MDPError, match=r"got about 10\^77"):
        exact.all_episodes(exact.random(3, 2, 100, 0), pi)
    with pytest.raises(MDPError, match="expected a finite horizon"):
        exact.all_episodes(exact.random(3, 2, None, 0), pi)
    for horizon in (1_000, 10**9):
        with pytest.raises(
            MDPError,
            match=rf"got more than 10\^100 of up to {horizon} steps; a horizon of 6 would do",
        ):
            exact.all_episodes(exact.random(3, 2, horizon, 0), pi)
    for cut in (0, -1, 1.5):
        with pytest.raises(
            MDPError, match=f"all_episodes cut: expected an integer of at least 1, got {cut}"
        ):
            exact.all_episodes(exact.random(3, 2, 2, 0), pi, cut=cut)  # pyright: ignore[reportArgumentType]


def test_a_count_of_batches_with_thousands_of_digits_is_told():
    episodes = exact.all_episodes(exact.random(2, 2, 2, 0), np.full((2, 2), 0.5))
    with pytest.raises(
        MDPError,
        match=r"batches of 20000 episodes, got about 10\^\d{5} from .* use batches of \d+,",
    ):
        all_tuples(episodes, 20_000, ordered=True)


def test_a_single_episode_may_be_of_thousands_of_steps():
    mdp = exact.MDP(np.ones((1, 1, 1)), np.ones((1, 1)), np.ones(1), horizon=2_000)
    episodes = exact.all_episodes(mdp, np.ones((1, 1)))
    assert (len(episodes), episodes.lengths.tolist(), episodes.rewards.sum()) == (
        1,
        [2_000],
        2_000.0,
    )


def test_episodes_that_start_at_an_end_are_refused():
    mdp = exact.random(3, 2, 2, 0).replaced(terminal=np.array([True, False, False]))
    with pytest.raises(MDPError, match="states that are not terminal"):
        exact.all_episodes(mdp, np.full((3, 2), 0.5))
