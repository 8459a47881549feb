import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, FileError, ShapeError, SpecError
from pgcore_train.learning.replay import Replay

FIELDS = ("observations", "actions", "rewards", "terminated", "log_probs", "final_observations")


def batch_of(
    start: int, lengths: tuple[int, ...], terminated: tuple[bool, ...], **changed
) -> pg.Batch:
    """Return steps numbered from `start`, each of whose arrays tells its number; a final observation is the last step's number and a half."""
    number = np.arange(start, start + sum(lengths), dtype=np.float64)
    last = number[np.cumsum(lengths) - 1]
    fields = {
        "observations": np.stack([number, -number], axis=1),
        "actions": number.astype(int) % 4,
        "rewards": 10 * number,
        "episode_lengths": lengths,
        "terminated": terminated,
        "final_observations": np.stack([last + 0.5, -last - 0.5], axis=1),
        "log_probs": -number,
    }
    return pg.Batch(**(fields | changed))


def numbers(replay: Replay) -> list[int]:
    """Return the numbers of the steps that lie in the ring, place by place."""
    return replay.state()["observations"][:, 0].astype(int).tolist()


def test_the_oldest_steps_make_room():
    replay = Replay(5)
    replay.add(batch_of(0, (2, 1), (True, False)))
    assert (replay.size, numbers(replay)) == (3, [0, 1, 2])
    replay.add(batch_of(3, (4,), (False,)))
    assert (replay.size, numbers(replay)) == (5, [5, 6, 2, 3, 4])
    replay.add(batch_of(7, (5,), (True,)))
    assert (replay.size, numbers(replay)) == (5, [10, 11, 7, 8, 9])
    replay.add(batch_of(12, (13,), (True,)))
    assert (replay.size, numbers(replay)) == (5, [20, 21, 22, 23, 24])
    replay.add(batch_of(25, (7,), (True,)))
    replay.add(batch_of(32, (2,), (True,)))
    assert (replay.size, numbers(replay)) == (5, [30, 31, 32, 33, 29])


@pytest.mark.parametrize("parts", [(12,), (5, 7), (1,) * 12, (4, 8)])
def test_the_ring_is_the_same_however_steps_come_in(parts):
    replay, start = Replay(5), 0
    for part in parts:
        replay.add(batch_of(start, (part,), (True,)))
        start += part
    assert numbers(replay) == [10, 11, 7, 8, 9]


def test_a_sample_is_one_step_episodes_that_know_what_followed():
    replay = Replay(10)
    replay.add(batch_of(0, (3, 2, 1), (True, False, True)))
    batch = replay.sample(500, pg.generator(0))
    number = batch.observations[:, 0]
    assert sorted(set(number)) == [0, 1, 2, 3, 4, 5]
    assert batch.episode_lengths.tolist() == [1] * 500
    np.testing.assert_array_equal(batch.observations[:, 1], -number)
    np.testing.assert_array_equal(batch.actions, number % 4)
    np.testing.assert_array_equal(batch.rewards, 10 * number)
    np.testing.assert_array_equal(batch.log_probs, -number)
    np.testing.assert_array_equal(batch.terminated, np.isin(number, (2, 5)))
    goes_on = ~batch.terminated
    # Step 4 was cut, and what followed it is its final observation; every other step that goes on is followed by the next one.
    following = np.where(number == 4, 4.5, number + 1)
    assert batch.final_observations is not None
    np.testing.assert_array_equal(batch.final_observations[goes_on, 0], following[goes_on])
    for name in FIELDS:
        assert not getattr(batch, name).flags.writeable, name


def test_what_bootstraps_is_what_the_whole_batch_bootstraps():
    """Q-learning's targets of replayed steps are those of the batch that they came from."""
    policy = pg.policy(
        pg.PolicySpec(pg.MLP(2, (4,)), pg.EpsilonGreedy(4)),
        backend="numpy",
        seed=1,
        dtype="float64",
    )
    estimator, batch, replay = (
        pg.estimator("q_learning", gamma=0.9),
        batch_of(0, (3, 2, 1), (True, False, True)),
        Replay(9),
    )
    replay.add(batch)
    drawn = replay.sample(40, pg.generator(3))
    targets = pg.signals(policy, estimator, batch).values["target"]
    found = pg.signals(policy, estimator, drawn).values["target"]
    np.testing.assert_allclose(found, targets[drawn.observations[:, 0].astype(int)], rtol=1e-12)


def test_steps_are_drawn_uniformly():
    replay = Replay(8)
    for start in range(0, 12, 3):
        replay.add(batch_of(start, (3,), (True,)))
    drawn = replay.sample(80_000, pg.generator(0)).observations[:, 0].astype(int)
    counts = np.bincount(drawn, minlength=12)
    assert not counts[:4].any()
    # Each count is binomial with standard deviation 94.
    np.testing.assert_allclose(counts[4:], 10_000, atol=450)


def test_a_half_empty_ring_gives_only_what_came_in():
    replay = Replay(1000)
    replay.add(batch_of(7, (3,), (False,)))
    assert set(replay.sample(200, pg.generator(0)).observations[:, 0]) == {7.0, 8.0, 9.0}


def test_a_sample_is_the_generators():
    replay = Replay(50)
    replay.add(batch_of(0, (50,), (True,)))
    first, same, other = (
        replay.sample(20, pg.generator(seed)).rewards.tolist() for seed in (4, 4, 5)
    )
    assert first == same != other


def test_a_sample_does_not_change_when_the_ring_does():
    replay = Replay(3)
    replay.add(batch_of(0, (3,), (True,)))
    batch = replay.sample(10, pg.generator(0))
    before = batch.rewards.copy()
    replay.add(batch_of(3, (3,), (True,)))
    np.testing.assert_array_equal(batch.rewards, before)


def test_states_of_a_table_and_real_actions_keep_their_dtypes():
    replay = Replay(4)
    replay.add(
        batch_of(
            0,
            (3,),
            (False,),
            observations=[5, 6, 7],
            final_observations=[8],
            actions=np.ones((3, 2)) * 0.25,
        )
    )
    batch = replay.sample(30, pg.generator(0))
    assert batch.final_observations is not None
    assert batch.observations.dtype.kind == batch.final_observations.dtype.kind == "i"
    np.testing.assert_array_equal(batch.final_observations, batch.observations + 1)
    assert batch.actions.tolist() == [[0.25, 0.25]] * 30


@pytest.mark.parametrize("steps", [0, 4, 7, 20])
def test_a_ring_goes_on_from_its_state(steps):
    replay, other = Replay(7), Replay(7)
    if steps:
        replay.add(batch_of(0, (steps,), (False,)))
    other.load(replay.state())
    for each in (replay, other):
        each.add(batch_of(steps, (2,), (True,)))
    assert numbers(other) == numbers(replay)
    first, second = (each.sample(30, pg.generator(1)) for each in (replay, other))
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(second, name), getattr(first, name), err_msg=name)


@pytest.mark.parametrize("added", [1, 3, 5, 8, 12])
@pytest.mark.parametrize("held", [0, 2, 5, 9])
def test_the_last_batch_is_taken_out_again(held, added):
    replay, other = Replay(5), Replay(5)
    if held:
        for each in (replay, other):
            each.add(batch_of(0, (held,), (True,)))
    replay.add(batch_of(50, (added,), (True,)))
    replay.undo()
    replay.undo()
    assert replay.size == other.size
    if held:
        assert numbers(replay) == numbers(other)
    for each in (replay, other):
        each.add(batch_of(held, (7,), (True,)))
    assert numbers(replay) == numbers(other)


def test_a_state_is_not_changed_by_later_steps():
    replay = Replay(3)
    replay.add(batch_of(0, (3,), (True,)))
    state = replay.state()
    replay.add(batch_of(3, (3,), (True,)))
    assert state["rewards"].tolist() == [0.0, 10.0, 20.0]


@pytest.mark.parametrize("capacity", [6, 8, 100])
def test_a_full_ring_of_another_capacity_is_refused(capacity):
    replay, other = Replay(7), Replay(capacity)
    replay.add(batch_of(0, (10,), (True,)))
    with pytest.raises(
        FileError,
        match=rf"expected a replay buffer of capacity {capacity}, got one of another with 7",
    ):
        other.load(replay.state())
    assert other.size == 0


@pytest.mark.parametrize("capacity", [0, -1, 2.5, True])
def test_a_capacity_is_a_count(capacity):
    with pytest.raises(SpecError, match=r"Replay.capacity: expected an integer of at least 1"):
        Replay(capacity)


def test_bad_samples_are_refused():
    replay = Replay(3)
    with pytest.raises(
        BatchError, match=r"Replay.sample: expected steps to draw from, got none; add a batch first"
    ):
        replay.sample(1, pg.generator(0))
    replay.add(batch_of(0, (3,), (True,)))
    with pytest.raises(
        BatchError, match=r"Replay.sample: expected an integer of at least 1, got 0"
    ):
        replay.sample(0, pg.generator(0))


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"log_probs": None}, BatchError, r"Replay.add: expected log_probs, got none"),
        (
            {"action_mask": np.ones((3, 4), bool)},
            BatchError,
            r"expected action masks in all batches or in none, got action_mask and next_action_mask after none",
        ),
        (
            {"final_observations": None},
            BatchError,
            r"Batch.final_observations: expected one for every truncated episode",
        ),
        (
            {"observations": np.ones((3, 5)), "final_observations": np.ones((1, 5))},
            ShapeError,
            r"Replay.add: expected observations of shape \[2\] for each step, got \[5\]",
        ),
        (
            {"actions": np.ones((3, 2))},
            ShapeError,
            r"expected actions of shape \[\] for each step, got \[2\]",
        ),
    ],
)
def test_batches_that_do_not_fit_are_refused_and_change_nothing(changed, error, message):
    replay = Replay(6)
    replay.add(batch_of(0, (3,), (False,)))
    before = replay.state()
    with pytest.raises(error, match=message):
        replay.add(batch_of(3, (3,), (False,), **changed))
    for name, value in replay.state().items():
        np.testing.assert_array_equal(value, before[name])


def test_masks_are_kept_and_what_is_possible_next_comes_along():
    mask = np.array(
        [[True, True, False, True], [True, True, True, False], [False, True, True, True]]
    )
    after = np.array([[True, False, True, False]])
    masked = batch_of(0, (2, 1), (True, False), action_mask=mask)
    told = batch_of(
        3, (1,), (False,), action_mask=mask[:1], extras={"next_action_mask": after}, actions=[3]
    )
    replay = Replay(10)
    replay.add(masked)
    replay.add(told)
    drawn = replay.sample(200, pg.generator(0))
    number = drawn.observations[:, 0].astype(int)
    assert set(number) == {0, 1, 2, 3}
    assert drawn.action_mask is not None
    np.testing.assert_array_equal(drawn.action_mask, mask[[0, 1, 2, 0]][number])
    # Nobody says what is possible after the second and the third.
    following = np.stack([mask[1], np.ones(4, bool), np.ones(4, bool), after[0]])
    np.testing.assert_array_equal(drawn.next_action_mask, following[number])
    again = Replay(10)
    again.load(replay.state())
    np.testing.assert_array_equal(
        again.sample(200, pg.generator(0)).next_action_mask, following[number]
    )
    with pytest.raises(
        BatchError,
        match=r"masks in all batches or in none, got none after action_mask and next_action_mask",
    ):
        again.add(batch_of(4, (1,), (True,)))


def test_numbers_of_another_kind_are_refused_and_what_is_possible_next_is_kept_alone():
    replay = Replay(6)
    whole = {"observations": np.ones((1, 2), int), "final_observations": np.ones((1, 2), int)}
    replay.add(batch_of(0, (1,), (True,), **whole))
    with pytest.raises(
        BatchError,
        match=r"expected observations in int64, as those before, got float64; keep one dtype",
    ):
        replay.add(batch_of(1, (1,), (True,)))
    after = np.array([[True, False, True, True]])
    alone = Replay(6)
    alone.add(batch_of(0, (1,), (False,), extras={"next_action_mask": after}))
    np.testing.assert_array_equal(alone.sample(1, pg.generator(0)).next_action_mask, after)
