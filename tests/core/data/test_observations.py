"""Observations of several arrays by name: held, sliced, padded, joined, saved and read from rollouts."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.data import files
from pgcore.errors import BatchError, FileError, ShapeError

STEPS = 5


def images(*shape):
    return np.arange(np.prod(shape) * 4).reshape(*shape, 2, 2).astype(np.uint8)


def goals(*shape):
    return np.arange(np.prod(shape) * 3).reshape(*shape, 3).astype(np.float32) / 7


def make_batch(**changes) -> Any:
    fields = {
        "observations": {"image": images(STEPS), "goal": goals(STEPS)},
        "actions": [0, 1, 0, 1, 1],
        "rewards": np.arange(5.0),
        "episode_lengths": [3, 2],
        "terminated": [True, False],
        "final_observations": {"goal": goals(2) + 90, "image": images(2) + 90},
    }
    return pg.Batch(**(fields | changes))


def check(observations, image, goal):
    np.testing.assert_array_equal(observations["image"], image)
    np.testing.assert_array_equal(observations["goal"], goal)
    assert (observations["image"].dtype, observations["goal"].dtype) == (np.uint8, np.float32)


def test_a_batch_holds_them_and_so_do_its_parts():
    batch, image, goal = make_batch(), images(STEPS), goals(STEPS)
    check(batch.observations, image, goal)
    assert not batch.observations["goal"].flags.writeable
    assert "goal, image" in repr(batch)
    check(batch.final_observations, images(2) + 90, goals(2) + 90)
    check(batch.steps([3, 0]).observations, image[[3, 0]], goal[[3, 0]])
    check(batch.episodes([1]).observations, image[3:], goal[3:])
    check(batch.pad(7).observations[5:], image[[4, 4]], goal[[4, 4]])
    following = images(STEPS)[[1, 2, 2, 4, 4]]
    following[4] = images(2)[1] + 90
    np.testing.assert_array_equal(batch.next_observations["image"], following)
    assert batch.steps([4]).final_observations["goal"].tolist() == (goals(2)[1:] + 90).tolist()
    both = pg.Batch.concatenate([batch, batch])
    check(both.observations[STEPS:], image, goal)


def test_they_survive_files_pickle_and_copies(tmp_path):
    batch = make_batch()
    batch.save(tmp_path / "batch.safetensors")
    for other in (
        pg.Batch.load(tmp_path / "batch.safetensors"),
        pickle.loads(pickle.dumps(batch)),
        copy.deepcopy(batch),
    ):
        check(other.observations, images(STEPS), goals(STEPS))
        check(other.final_observations, images(2) + 90, goals(2) + 90)
        with pytest.raises(ValueError, match="read-only"):
            other.observations["goal"][0] = 1


def test_a_file_with_one_array_and_several_of_a_name_is_refused(tmp_path):
    path = tmp_path / "batch.safetensors"
    make_batch().save(path)
    arrays, _ = files.read(path, "pgcore.batch")
    files.write(path, "pgcore.batch", arrays | {"observations": goals(STEPS)}, {})
    with pytest.raises(FileError, match="observations or several by name, got both"):
        pg.Batch.load(path)


def test_constructors_read_them():
    done, time = np.array([[0, 0], [0, 1], [0, 0]], bool), 3
    batch: Any = pg.Batch.from_rollout(
        observations={"image": images(time, 2), "goal": goals(time, 2)},
        actions=np.zeros((time, 2), int),
        rewards=np.ones((time, 2)),
        terminated=np.zeros_like(done),
        truncated=done,
        final_observations={"image": images(time, 2) + 50, "goal": goals(time, 2) + 50},
        last_observations={"image": images(2) + 99, "goal": goals(2) + 99},
        autoreset="same_step",
    )
    rows = [0, 2, 4, 1, 3, 5]
    check(batch.observations, images(6)[rows], goals(6)[rows])
    expected = np.stack([images(2)[0] + 99, images(6)[3] + 50, images(2)[1] + 99])
    np.testing.assert_array_equal(batch.final_observations["image"], expected)
    mask = np.array([[1, 1, 0], [1, 0, 1]], bool)
    padded = pg.Batch.from_padded(
        observations={"image": images(2, 3), "goal": goals(2, 3)},
        actions=np.zeros((2, 3), int),
        rewards=[1.0, 2.0],
        mask=mask,
    )
    check(padded.observations, images(2, 3)[mask], goals(2, 3)[mask])
    steps: Any = pg.Batch.from_steps(
        observations={"goal": goals(3)},
        actions=[0, 0, 0],
        rewards=[1.0] * 3,
        terminated=[0, 1, 0],
        next_observations={"goal": goals(3)[[1, 0, 2]] + np.array([[0], [0], [8]], np.float32)},
    )
    np.testing.assert_array_equal(steps.final_observations["goal"][1], goals(3)[2] + 8)
    replay = pg.Batch.from_replay(
        observations={"goal": goals(2)},
        actions=[0, 0],
        rewards=[1.0, 1.0],
        terminated=[0, 0],
        next_observations={"goal": goals(2) + 1},
    )
    np.testing.assert_array_equal(replay.next_observations["goal"], goals(2) + 1)


def test_a_reset_row_that_differs_is_told():
    time = 3
    columns = {
        "actions": np.zeros((time, 1), int),
        "rewards": [[1.0], [1.0], [0.0]],
        "terminated": np.zeros((time, 1), bool),
        "truncated": [[0], [1], [0]],
        "observations": {"goal": goals(time, 1)},
    }
    final = {"goal": np.roll(goals(time, 1), -1, axis=0)}
    batch: Any = pg.Batch.from_rollout(**columns, final_observations=final)
    np.testing.assert_array_equal(batch.final_observations["goal"], goals(time, 1)[2])
    with pytest.raises(BatchError, match="step 1 of environment 0"):
        pg.Batch.from_rollout(**columns, final_observations={"goal": final["goal"] + 1})


def test_constant_ones_are_held_without_a_copy():
    batch = make_batch()
    again = make_batch(observations=batch.observations, final_observations=batch.final_observations)
    assert again.observations is batch.observations
    assert again.final_observations is batch.final_observations
    assert batch.with_extras(group=np.zeros(STEPS)).observations is batch.observations


def test_others_are_copied():
    batch = make_batch()
    writable, swapped = batch.observations.copy(), batch.observations.dtype.newbyteorder()
    batches = [make_batch(observations=writable)]
    writable["goal"] = 0
    gaps = np.zeros(
        STEPS, [("goal", np.float32, 3), ("gap", np.int64), ("image", np.uint8, (2, 2))]
    )
    gaps["goal"], gaps["image"] = goals(STEPS), images(STEPS)
    others = (
        batch.observations.astype(swapped),
        batch.observations[["image", "goal"]],
        gaps[["goal", "image"]],
    )
    for other in others:
        other.flags.writeable = False
        batches.append(make_batch(observations=other))
    for copied in batches:
        check(copied.observations, images(STEPS), goals(STEPS))
        assert copied.observations.dtype == batch.observations.dtype


@pytest.mark.parametrize("names", [{"goal"}, {"goal", "image", "more"}, {"goal", "other"}])
def test_a_row_of_other_names_is_told(names):
    rows = [{"goal": goals(1)[0], "image": images(1)[0]} for _ in range(STEPS)]
    check(make_batch(observations=rows).observations, [images(1)[0]] * STEPS, [goals(1)[0]] * STEPS)
    rows[3] = {name: images(1)[0] for name in sorted(names)}
    message = r"expected the names \['goal', 'image'\] in every row, .* got \['goal'.*\] in row 3"
    with pytest.raises(BatchError, match=message):
        make_batch(observations=rows)


def test_final_ones_of_other_layouts_are_told():
    for final in ({"goal": images(1, 1)[:, 0]}, {"other": goals(1)}, goals(1)):
        with pytest.raises(ShapeError, match=r"of shape \{'goal': \[3\]\} each, got "):
            pg.Batch.from_rollout(
                observations={"goal": goals(2, 1)},
                actions=np.zeros((2, 1), int),
                rewards=np.ones((2, 1)),
                terminated=np.zeros((2, 1), bool),
                truncated=np.zeros((2, 1), bool),
                last_observations=final,
            )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"observations": {}}, BatchError, r"Batch.observations: expected arrays by name"),
        ({"observations": {1: images(STEPS)}}, BatchError, r"got the names \[1\]"),
        (
            {"observations": {"a": goals(STEPS), "b": goals(4)}},
            ShapeError,
            r"Batch.observations\['b'\]: expected shape \[5, '...'\], as 'a' has, got \[4, 3\]",
        ),
        (
            {"observations": {"a": goals(STEPS), "b": np.full(STEPS, np.nan)}},
            BatchError,
            "got NaN in 'b' at step 0",
        ),
        ({"observations": {"a": {"b": goals(STEPS)}}}, BatchError, r"observations\['a'\]"),
        (
            {"final_observations": {"goal": goals(2)}},
            ShapeError,
            r"expected shape \{'goal': \[2, 3\], 'image': \[2, 2, 2\]\}, got \{'goal': \[2, 3\]\}",
        ),
        ({"final_observations": goals(2)}, ShapeError, r"expected shape \{'goal': .*got \[2, 3\]"),
    ],
)
def test_bad_ones_are_told(changes, error, message):
    with pytest.raises(error, match=message):
        make_batch(**changes)


def test_batches_of_other_names_are_not_joined():
    other = {"goal": goals(STEPS)}
    batch = make_batch(observations=other, final_observations={"goal": goals(2)})
    with pytest.raises(ShapeError, match="expected the same shape of observations"):
        pg.Batch.concatenate([make_batch(), batch])


@pytest.mark.parametrize("network", [pg.Table(3), pg.Linear(3), pg.MLP(3, hidden=(4,))])
def test_a_network_of_a_spec_refuses_them(network):
    policy = pg.policy(pg.PolicySpec(network, pg.Categorical(2)), backend="numpy", seed=0)
    with pytest.raises(ShapeError, match=r"arrays by name \(goal, image\); join them"):
        pg.gradient(policy, pg.estimator("reinforce"), make_batch())
    with pytest.raises(ShapeError, match="arrays by name"):
        policy.act({"goal": goals(2)}, pg.generator(0))
