"""Finite processes: made, refused, read from Gymnasium, counted."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pgcore import exact
from pgcore.errors import MDPError

HALF = [[[0.5, 0.5], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]]]


def fields(**changes):
    return {"transition": HALF, "reward": [[1.0, 0.0], [0.0, 1.0]], "initial": [1.0, 0.0], "horizon": 2} | changes


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
        ({"reward": [1.0, 2.0]}, r"reward: expected shape \[2, 2\] or \[2, 2, 2\], got \[2\]"),
        ({"reward": [[np.nan, 0.0], [0.0, 0.0]]}, "reward: expected finite numbers"),
        ({"initial": [0.5, 0.4]}, "initial: expected probabilities that sum to 1"),
        ({"terminal": [1, 0]}, "terminal: expected booleans"),
        ({"observations": [0]}, "observations: expected 2 rows"),
        ({"horizon": 0}, "horizon: expected an integer of at least 1"),
        ({"gamma": 1.5}, r"gamma: expected a number in \[0, 1\]"),
        ({"initial": [Fraction(1, 2), Fraction(1, 3)]}, "initial: expected probabilities that sum to 1"),
    ],
)
def test_what_is_no_process_is_refused(changes, told):
    with pytest.raises(MDPError, match=told):
        exact.MDP(**fields(**changes))


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
    [((0, 2, 1, 0), "states"), ((2, 0, 1, 0), "actions"), ((2, 2, 1, -1), "seed")],
)
def test_random_processes_of_no_size_are_refused(arguments, told):
    with pytest.raises(MDPError, match=told):
        exact.random(*arguments)
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
    assert len(merged) == 2 * 2 * (1 + 2 * 2)  # start, action, then over at once or two states with two actions
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
    with pytest.raises(MDPError, match=r"got 60,466,176 of up to 10 steps; a horizon of 6 would do"):
        exact.all_episodes(exact.random(3, 2, 10, 0), pi)
    with pytest.raises(MDPError, match=r"got about 10\^77"):
        exact.all_episodes(exact.random(3, 2, 100, 0), pi)
    with pytest.raises(MDPError, match="expected a finite horizon"):
        exact.all_episodes(exact.random(3, 2, None, 0), pi)


def test_episodes_that_start_at_an_end_are_refused():
    mdp = exact.random(3, 2, 2, 0).replaced(terminal=np.array([True, False, False]))
    with pytest.raises(MDPError, match="living states"):
        exact.all_episodes(mdp, np.full((3, 2), 0.5))
