"""Some steps of a batch as a batch of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

import pgcore as pg
from pgcore.data.selection import Selection


def batch_of():
    return pg.Batch(
        observations=np.arange(6.0).reshape(6, 1),
        actions=[0, 1, 0, 1, 0, 1],
        rewards=[1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
        episode_lengths=[3, 1, 2],
        terminated=[False, True, False],
        final_observations=[[7.0], [8.0], [9.0]],
        values=np.arange(6.0),
        final_values=[1.0, 0.0, 3.0],
        extras={"group": [4, 4, 4, 5, 6, 6]},
    )


def test_a_selection_is_a_batch_of_shorter_episodes():
    part: Any = Selection(batch_of(), np.array([0, 1, 0, 0, 0, 1], bool)).batch
    assert part.num_episodes == 2
    assert part.episode_lengths.tolist() == [1, 1]
    assert part.terminated.tolist() == [False, False]
    assert part.observations.ravel().tolist() == [1.0, 5.0]
    assert part.values.tolist() == [1.0, 5.0]
    assert part.final_values.tolist() == [1.0, 3.0]
    assert part.final_observations.ravel().tolist() == [7.0, 9.0]
    assert part.extras["group"].tolist() == [4, 6]
    assert not part.rewards.flags.writeable
    assert part.next_observations.ravel().tolist() == [7.0, 9.0]


def test_rewards_move_within_their_episode_alone():
    part = Selection(batch_of(), np.array([0, 1, 1, 0, 1, 0], bool)).batch
    # The second episode is left out with its reward of 8.
    assert part.rewards.tolist() == [3.0, 4.0, 48.0]


def test_all_steps_are_the_batch():
    whole = batch_of()
    part = Selection(whole, np.ones(6, bool))
    for name in ("observations", "actions", "rewards", "episode_lengths", "terminated", "values"):
        np.testing.assert_array_equal(getattr(part.batch, name), getattr(whole, name))
    assert part.spread(part.batch.rewards).tolist() == whole.rewards.tolist()


def test_spreading_leaves_zeros_at_the_other_steps():
    steps = np.array([0, 1, 0, 0, 1, 0], bool)
    spread = Selection(batch_of(), steps).spread(np.array([[1, 2], [3, 4]]))
    assert spread.tolist() == [[0, 0], [1, 2], [0, 0], [0, 0], [3, 4], [0, 0]]
    assert spread.dtype.kind == "i"
