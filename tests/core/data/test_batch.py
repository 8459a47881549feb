import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

from pgcore.data import files
from pgcore.data.batch import Batch
from pgcore.errors import BatchError, FileError, ShapeError

PER_STEP = (
    "observations",
    "actions",
    "rewards",
    "log_probs",
    "values",
    "action_mask",
    "step_weights",
    "discount",
)
ARRAYS = (*PER_STEP, "episode_lengths", "terminated", "final_observations", "final_values")


@pytest.fixture
def batch_fields(batch_fields):
    """Every optional array but weights, what a critic said among them."""
    return batch_fields | {
        "values": np.array([0.5, -1.0, 2.0, 0.0, 1.5, -0.25]),
        "final_values": np.array([0.0, 0.75]),
        "discount": np.array([1.0, 0.5, 0.0, 1.0, 0.25, 0.75]),
    }


def arrays_of(batch):
    """Return every array of a batch by name, those it computes included."""
    computed = (
        "episode_starts",
        "episode_ends",
        "episode_of_step",
        "step_in_episode",
        "episode_weights",
        "next_observations",
    )
    found = {name: getattr(batch, name) for name in (*ARRAYS, *computed)}
    return {
        name: value for name, value in (found | dict(batch.extras)).items() if value is not None
    }


def assert_same(left, right):
    """Compare two batches array by array, dtypes included."""
    left, right = arrays_of(left), arrays_of(right)
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.dtype == right[name].dtype, name
        np.testing.assert_array_equal(value, right[name], name, strict=True)


def test_arrays_are_kept_in_their_documented_dtypes(batch_fields):
    lists = {name: value.tolist() for name, value in batch_fields.items() if name != "extras"}
    batch = Batch(**lists, step_weights=[1] * 6, extras={"teacher": range(6)})
    dtypes = {name: getattr(batch, name).dtype for name in ARRAYS}
    integers = dict.fromkeys(("actions", "episode_lengths"), np.dtype(np.intp))
    booleans = dict.fromkeys(("action_mask", "terminated"), np.dtype(np.bool_))
    assert dtypes == dict.fromkeys(ARRAYS, np.dtype(np.float64)) | integers | booleans
    for name, value in lists.items():
        assert getattr(batch, name).tolist() == value


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.bool_])
def test_observations_keep_the_dtype_they_come_in(make_batch, dtype):
    assert make_batch(observations=np.ones((6, 3), dtype)).observations.dtype == dtype


def test_real_actions_become_float64(make_batch):
    batch = make_batch(actions=np.ones((6, 2), np.float32), action_mask=None)
    assert (batch.actions.dtype, batch.actions.shape) == (np.float64, (6, 2))


def test_sizes_and_episodes(make_batch):
    batch = make_batch()
    assert (batch.num_steps, batch.num_episodes) == (6, 2)
    assert repr(batch) == "Batch(6 steps, 2 episodes, observations [6, 3])"
    assert batch.episode_starts.tolist() == [0, 2]
    assert batch.episode_ends.tolist() == [1, 5]
    assert batch.episode_of_step.tolist() == [0, 0, 1, 1, 1, 1]
    assert batch.step_in_episode.tolist() == [0, 1, 0, 1, 2, 3]
    assert batch.episode_weights.tolist() == [1.0, 1.0]
    assert make_batch(step_weights=[0, 0, 1, 1, 1, 1]).episode_weights.tolist() == [0.0, 1.0]


DERIVED = {
    "itself": lambda batch: batch,
    "steps": lambda batch: batch.steps([5, 0]),
    "steps of a slice": lambda batch: batch.steps(slice(1, 4)),
    "steps of steps": lambda batch: batch.steps([4, 2, 1]).steps([2, 1]),
    "episodes": lambda batch: batch.episodes([1]),
    "padded": lambda batch: batch.pad(9),
    "concatenated": lambda batch: Batch.concatenate([batch, batch]),
    "unpickled": lambda batch: pickle.loads(pickle.dumps(batch)),
    "copied": copy.deepcopy,
}


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_no_array_can_be_written_to(make_batch, derive):
    for name, array in arrays_of(derive(make_batch())).items():
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
        assert not array.flags.writeable, name


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_no_attribute_can_be_set(make_batch, derive):
    with pytest.raises(
        AttributeError, match=r"Batch\.rewards: expected no assignment, got one; .* make a new one"
    ):
        derive(make_batch()).rewards = np.zeros(6)


@pytest.mark.parametrize("seen", ["itself", "a read-only view"])
def test_writing_to_the_callers_arrays_changes_nothing(batch_fields, seen):
    given = {
        name: value for name, value in batch_fields.items() if name != "extras"
    } | batch_fields["extras"]
    passed = dict(given)
    if seen != "itself":
        passed = {name: value[:] for name, value in given.items()}
        for view in passed.values():
            view.flags.writeable = False
    extras = {name: passed.pop(name) for name in batch_fields["extras"]}
    batch = Batch(**passed, extras=extras)
    before = copy.deepcopy(batch)
    for array in given.values():
        array[...] = 1
    extras.clear()
    assert_same(batch, before)


def test_a_read_only_array_is_kept_without_a_copy(make_batch):
    observations = np.ones((6, 3))
    observations.flags.writeable = False
    assert make_batch(observations=observations).observations is observations


@pytest.mark.parametrize(
    "clone", [copy.copy, copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))]
)
def test_copies_are_equal(make_batch, clone):
    assert_same(clone(make_batch()), make_batch())
    assert_same(clone(make_batch().steps([3, 1])), make_batch().steps([3, 1]))


# What follows a step


def test_the_next_observation_is_the_following_one_the_final_one_or_after_a_terminal_step_its_own(
    make_batch,
):
    batch = make_batch()
    o, final = batch.observations, batch.final_observations
    np.testing.assert_array_equal(batch.next_observations, [o[1], o[1], o[3], o[4], o[5], final[1]])


def test_terminated_episodes_need_no_final_observations(make_batch):
    batch = make_batch(final_observations=None, terminated=[True, True])
    batch.check_bootstrap()
    np.testing.assert_array_equal(batch.next_observations, batch.observations[[1, 1, 3, 4, 5, 5]])


def test_final_observations_of_terminated_episodes_are_not_read(make_batch):
    final = np.full((2, 3), np.nan)
    final[1] = 7.0
    assert make_batch(final_observations=final).next_observations[5].tolist() == [7.0] * 3
    assert np.isfinite(make_batch(final_observations=final).next_observations).all()


def test_a_final_observation_is_not_forced_into_a_narrower_dtype(make_batch):
    batch = make_batch(
        observations=np.ones((6, 3), np.uint8), final_observations=np.full((2, 3), 300.5)
    )
    assert batch.next_observations[5].tolist() == [300.5] * 3
    assert batch.next_observations[0].tolist() == [1.0] * 3


def test_a_cut_episode_without_a_final_observation_cannot_be_bootstrapped(make_batch):
    batch = make_batch(final_observations=None)
    words = r"Batch\.final_observations: expected one for every truncated episode, got none and episode [01] did not terminate; pass"
    for use in (
        batch.check_bootstrap,
        lambda: batch.next_observations,
        batch.steps([5]).check_bootstrap,
    ):
        with pytest.raises(BatchError, match=words):
            use()


def test_recorded_values_need_no_row_where_nothing_is_read(make_batch):
    batch = make_batch(final_values=[np.nan, 0.75])
    assert batch.final_values.tolist() == [0.0, 0.75]
    assert batch.pad(8).final_values.tolist() == [0.0, 0.75, 0.0, 0.0]
    assert batch.pad(8).values.tolist() == [0.5, -1.0, 2.0, 0.0, 1.5, -0.25, -0.25, -0.25]


def test_the_final_value_of_a_single_step_is_the_next_ones(make_batch):
    assert make_batch().steps([0, 1, 4, 5]).final_values.tolist() == [-1.0, 0.0, -0.25, 0.75]
    ended = make_batch(final_values=None, terminated=[True, True])
    assert ended.steps([4, 5]).final_values.tolist() == [-0.25, 0.0]
    assert make_batch(final_values=None).steps([0]).final_values is None
    assert make_batch(values=None).steps([0]).final_values is None


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        (
            {"values": np.ones(5)},
            ShapeError,
            r"Batch\.values: expected 6 rows, one for each step, got shape \[5\]",
        ),
        (
            {"discount": np.ones(5)},
            ShapeError,
            r"Batch\.discount: expected 6 rows, one for each step",
        ),
        (
            {"discount": [1, 1, 1.5, 1, 1, 1]},
            BatchError,
            r"Batch\.discount: expected numbers in \[0, 1\], got 1\.5 at step 2; check that step",
        ),
        ({"discount": [-1, 1, 1, 1, 1, 1]}, BatchError, r"got -1\.0 at step 0"),
        (
            {"discount": [1, 1, 1, np.nan, 1, 1]},
            BatchError,
            r"Batch\.discount: expected finite numbers, got NaN at step 3",
        ),
        ({"values": np.ones((6, 1))}, ShapeError, r"Batch\.values: expected a 1-dimensional array"),
        (
            {"values": [0, 0, np.inf, 0, 0, 0]},
            BatchError,
            r"Batch\.values: expected finite numbers, got infinity at step 2",
        ),
        (
            {"final_values": np.ones(6)},
            ShapeError,
            r"Batch\.final_values: expected 2 rows, one for each episode",
        ),
        (
            {"final_values": [0, np.nan]},
            BatchError,
            r"Batch\.final_values: expected finite numbers, got NaN at episode 1",
        ),
    ],
)
def test_recorded_values_that_cannot_be_are_refused(make_batch, fields, error, words):
    with pytest.raises(error, match=words):
        make_batch(**fields)


# Steps


@pytest.mark.parametrize(
    ("index", "numbers"),
    [
        ([4, 0, 4], [4, 0, 4]),
        (np.array([1]), [1]),
        (slice(1, None, 2), [1, 3, 5]),
        (np.array([0, 0, 1, 0, 0, 1], bool), [2, 5]),
        (range(2), [0, 1]),
    ],
)
def test_steps_are_episodes_of_one_step(make_batch, index, numbers):
    batch = make_batch()
    chosen = batch.steps(index)
    for name in PER_STEP:
        if getattr(batch, name) is not None:
            np.testing.assert_array_equal(getattr(chosen, name), getattr(batch, name)[numbers])
    assert chosen.step_weights is None
    np.testing.assert_array_equal(chosen.extras["teacher"], numbers)
    assert chosen.episode_lengths.tolist() == [1] * len(numbers)
    assert chosen.terminated.tolist() == [number == 1 for number in numbers], (
        "only step 1 led to a terminal state"
    )
    np.testing.assert_array_equal(chosen.final_observations, batch.next_observations[numbers])
    np.testing.assert_array_equal(chosen.next_observations, batch.next_observations[numbers])


def test_steps_equal_a_replay_batch_made_by_hand(make_batch):
    batch = make_batch()
    fields = {name: getattr(batch, name) for name in PER_STEP}
    by_hand = Batch(
        **fields,
        episode_lengths=np.ones(6, int),
        terminated=[False, True, False, False, False, False],
        final_observations=batch.next_observations,
        final_values=[-1.0, 0.0, 0.0, 1.5, -0.25, 0.75],
        extras=batch.extras,
    )
    assert_same(batch.steps(slice(None)), by_hand)


def test_steps_of_steps_are_steps(make_batch):
    batch = make_batch()
    assert_same(batch.steps([5, 1, 3, 0]).steps([1, 0, 0]), batch.steps([1, 5, 5]))


def test_steps_of_an_episode_without_a_final_observation_have_none(make_batch, tmp_path):
    chosen = make_batch(final_observations=None).steps([0, 5])
    assert chosen.final_observations is None
    chosen.save(tmp_path / "x")
    assert Batch.load(tmp_path / "x").terminated.tolist() == [False, False]


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (
            [0, 6],
            r"Batch\.steps: expected step numbers in \[0, 6\), got others \(index 6 .*\); check the index",
        ),
        (np.zeros(5, bool), r"Batch\.steps: expected step numbers in \[0, 6\), got others"),
        (np.array([0.5]), r"Batch\.steps: expected step numbers in \[0, 6\), got others"),
        ([], r"Batch\.steps: expected at least 1 step, got an index that chooses none"),
        (slice(3, 3), r"Batch\.steps: expected at least 1 step"),
        (np.zeros(6, bool), r"Batch\.steps: expected at least 1 step"),
        (
            2,
            r"Batch\.steps: expected a one-dimensional index, got one that chooses shape \[\]; pass a list of step numbers",
        ),
        (
            [[0, 1]],
            r"Batch\.steps: expected a one-dimensional index, got one that chooses shape \[1, 2\]",
        ),
    ],
)
def test_an_index_that_chooses_no_steps_is_refused(make_batch, index, words):
    with pytest.raises(BatchError, match=words):
        make_batch().steps(index)


# Episodes


@pytest.mark.parametrize(
    ("index", "steps"),
    [
        ([1], [2, 3, 4, 5]),
        ([1, 0], [2, 3, 4, 5, 0, 1]),
        ([0, 0], [0, 1, 0, 1]),
        (slice(None), range(6)),
        (np.array([True, False]), [0, 1]),
    ],
)
def test_episodes_come_whole_and_in_order(make_batch, index, steps):
    batch = make_batch(step_weights=[0, 0, 1, 1, 1, 1])
    chosen = batch.episodes(index)
    for name in PER_STEP:
        np.testing.assert_array_equal(getattr(chosen, name), getattr(batch, name)[list(steps)])
    for name in ("episode_lengths", "terminated", "final_observations"):
        np.testing.assert_array_equal(getattr(chosen, name), getattr(batch, name)[index])
    assert chosen.extras["teacher"].tolist() == list(steps)


def test_episodes_of_a_batch_without_options_have_none(make_batch):
    bare = make_batch(final_observations=None, log_probs=None, action_mask=None, extras=None)
    chosen = bare.episodes([1])
    assert [
        getattr(chosen, name) for name in ("final_observations", "log_probs", "action_mask")
    ] == [None] * 3
    assert chosen.extras == {}


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (
            [2],
            r"Batch\.episodes: expected episode numbers in \[0, 2\), got others \(index 2 .*\); check the index",
        ),
        ([], r"Batch\.episodes: expected at least 1 episode, got an index that chooses none"),
        (
            1,
            r"Batch\.episodes: expected a one-dimensional index, got one that chooses shape \[\]; pass a list of episode",
        ),
        (
            [[0]],
            r"Batch\.episodes: expected a one-dimensional index, got one that chooses shape \[1, 1\]",
        ),
    ],
)
def test_an_index_that_chooses_no_episodes_is_refused(make_batch, index, words):
    with pytest.raises(BatchError, match=words):
        make_batch().episodes(index)


# Minibatches


@pytest.mark.parametrize(("size", "sizes"), [(2, [2, 2, 2]), (4, [4, 2]), (6, [6]), (100, [6])])
def test_minibatches_are_a_pass_over_every_step(make_batch, size, sizes):
    found = list(make_batch().minibatches(size, np.random.default_rng(0)))
    assert [len(part) for part in found] == sizes
    assert sorted(np.concatenate(found)) == list(range(6))


def test_minibatches_follow_the_generator(make_batch):
    first, again, other = (
        np.concatenate(list(make_batch().minibatches(2, np.random.default_rng(seed)))).tolist()
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert first != sorted(first)


def test_minibatches_have_at_least_one_step(make_batch):
    with pytest.raises(
        BatchError, match=r"Batch\.minibatches size: expected an integer of at least 1, got 0; give"
    ):
        next(make_batch().minibatches(0, np.random.default_rng(0)))


# Padding


def test_each_step_of_padding_is_an_episode_of_weight_zero(make_batch):
    batch = make_batch()
    padded = batch.pad(9)
    assert (padded.num_steps, padded.num_episodes) == (9, 5)
    assert padded.step_weights.tolist() == [1.0] * 6 + [0.0] * 3
    assert padded.episode_weights.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert padded.rewards[6:].tolist() == [0.0] * 3
    assert padded.terminated[2:].all()
    np.testing.assert_array_equal(padded.observations[6:], batch.observations[[5, 5, 5]])
    assert padded.extras["teacher"].tolist() == [0, 1, 2, 3, 4, 5, 5, 5, 5]
    assert padded.final_observations.dtype == batch.final_observations.dtype
    assert (
        make_batch(final_observations=None, terminated=[True, True]).pad(7).final_observations
        is None
    )


def test_padding_leaves_the_episodes_as_they_were(make_batch):
    batch, real = make_batch(), make_batch().pad(9).episodes([0, 1])
    assert real.step_weights.tolist() == [1.0] * 6
    assert_same(real, make_batch(step_weights=np.ones(6)))
    np.testing.assert_array_equal(real.next_observations, batch.next_observations)


def test_padding_twice_keeps_the_first_padding(make_batch):
    assert make_batch().pad(7).pad(9).step_weights.tolist() == [1.0] * 6 + [0.0] * 3


def test_a_padded_batch_is_valid(make_batch, tmp_path):
    make_batch().pad(9).save(tmp_path / "x")
    assert_same(Batch.load(tmp_path / "x"), make_batch().pad(9))


def test_padding_to_the_own_size_is_nothing_and_to_less_is_refused(make_batch):
    batch = make_batch()
    assert batch.pad(6) is batch
    with pytest.raises(
        BatchError, match=r"Batch\.pad: expected at least 6 steps, got 5; slice the batch instead"
    ):
        batch.pad(5)


# Joining


def test_joining_and_taking_apart_are_inverse(make_batch):
    batch = make_batch()
    assert_same(Batch.concatenate([batch.episodes([0]), batch.episodes([1])]), batch)
    joined = Batch.concatenate([batch, make_batch(rewards=np.arange(6))])
    assert_same(joined.episodes([0, 1]), batch)
    assert_same(joined.episodes([2, 3]), make_batch(rewards=np.arange(6)))


def test_groups_of_joined_batches_stay_apart(make_batch):
    batch = make_batch(extras={"group": [-3, -3, 7, 7, 7, 7]})
    joined = Batch.concatenate([batch, batch.episodes([1]), batch])
    assert joined.extras["group"].tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 4, 4, 4]
    assert joined.extras["group"].dtype.kind == "i"
    reals = make_batch(extras={"group": np.arange(6.0)})
    assert Batch.concatenate([reals, reals]).extras["group"].tolist() == [*range(6), *range(6)]


def test_steps_can_be_joined(make_batch):
    batch = make_batch()
    assert_same(Batch.concatenate([batch.steps([4, 1]), batch.steps([0])]), batch.steps([4, 1, 0]))


@pytest.mark.parametrize(
    ("other", "error", "words"),
    [
        (
            {"log_probs": None},
            BatchError,
            "expected log_probs in all batches or in none, got it in 1 of 2; add or drop it",
        ),
        (
            {"step_weights": np.ones(6)},
            BatchError,
            "expected step_weights in all batches or in none, got it in 1 of 2",
        ),
        (
            {"extras": {}},
            BatchError,
            r"expected the same extras in all, got \[\[\], \['reference', 'teacher'\]\]; add",
        ),
        (
            {"extras": {"reference": np.ones(6), "teacher": np.ones(6)}},
            ShapeError,
            r"the same shape of extras\['reference'\]",
        ),
        (
            {"observations": np.ones((6, 2)), "final_observations": np.ones((2, 2))},
            ShapeError,
            r"expected the same shape of observations in all, got \[2\] and \[3\]; these do not belong together",
        ),
        (
            {"actions": np.ones((6, 1)), "action_mask": None},
            ShapeError,
            r"the same shape of actions in all, got \[1\] and \[\]",
        ),
    ],
)
def test_batches_that_differ_in_kind_cannot_be_joined(make_batch, other, error, words):
    with pytest.raises(
        error, match=rf"Batch\.concatenate: {words}" if words.startswith("expected") else words
    ):
        Batch.concatenate([make_batch(), make_batch(**other)])


def test_no_batches_cannot_be_joined():
    with pytest.raises(
        BatchError,
        match=r"Batch\.concatenate: expected at least 1 batch, got none; collect some first",
    ):
        Batch.concatenate([])


# Files


def test_a_batch_comes_back_from_its_file(make_batch, tmp_path):
    for batch in (
        make_batch(),
        make_batch(step_weights=np.ones(6)),
        make_batch(final_observations=None, extras=None),
    ):
        batch.save(tmp_path / "x")
        loaded = Batch.load(tmp_path / "x")
        assert loaded.final_observations is not None or batch.final_observations is None
        if loaded.final_observations is not None:
            assert_same(loaded, batch)
        assert loaded.extras.keys() == batch.extras.keys()
        np.testing.assert_array_equal(loaded.rewards, batch.rewards)


def test_every_field_comes_back_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    mask = np.array([True, False, True, True, True])

    def numbers(*shape: int, dtype: type = np.float64):
        values = rng.standard_normal(shape).astype(dtype)
        values.reshape(-1)[0] = -0.0
        return values

    for actions in (rng.integers(0, 3, 5), numbers(5, 2)):
        discrete = actions.ndim == 1
        batch = Batch(
            observations={
                "camera": np.arange(30, dtype=np.uint8).reshape(5, 2, 3),
                "joint": numbers(5),
            },
            final_observations={"camera": np.ones((2, 2, 3), np.uint8), "joint": numbers(2)},
            actions=actions,
            action_mask=np.ones((5, 3), np.bool_) if discrete else None,
            rewards=numbers(5),
            episode_lengths=[2, 3],
            terminated=[True, False],
            # Not read where the loss mask is False.
            log_probs=np.where(mask, numbers(5), np.nan),
            values=numbers(5),
            final_values=numbers(2),
            step_weights=[1.0, 1.0, 0.0, 0.0, 0.0],
            discount=rng.random(5),
            extras={
                "loss_mask": mask,
                "group": [3, 3, 9, 9, 9],
                "teacher.log_probs": numbers(5, 4, dtype=np.float32),
            },
        )
        batch.save(tmp_path / "x", beside={"rewards": np.ones(3)}, texts={"note": "mine"})
        loaded = Batch.load(tmp_path / "x")
        fields = {name: getattr(batch, name) for name in (*Batch.per_step, *Batch.per_episode)}
        assert (
            [name for name, x in fields.items() if x is None] == [] if discrete else ["action_mask"]
        )
        assert loaded.extras.keys() == batch.extras.keys()
        pairs = [(getattr(loaded, name), x) for name, x in fields.items() if x is not None]
        for again, array in pairs + [(loaded.extras[name], x) for name, x in batch.extras.items()]:
            assert (again.dtype, again.shape) == (array.dtype, array.shape)
            assert again.tobytes() == array.tobytes()


def test_every_dtype_of_observations_can_be_saved(make_batch, tmp_path):
    for dtype in (np.bool_, np.int8, np.uint16, ">i4", np.float16, ">f8", np.longdouble):
        batch = make_batch(observations=np.ones((6, 3), dtype))
        batch.save(tmp_path / "x")
        assert_same(Batch.load(tmp_path / "x"), batch)


def test_a_file_that_is_no_batch_is_refused(make_batch, tmp_path):
    files.write(tmp_path / "policy", "pgcore.policy", {}, {})
    with pytest.raises(
        FileError, match=r"expected a pgcore\.batch file, got format 'pgcore\.policy'"
    ):
        Batch.load(tmp_path / "policy")
    files.write(
        tmp_path / "half", "pgcore.batch", {"rewards": np.ones(2), "extras": np.ones(2)}, {}
    )
    with pytest.raises(
        FileError,
        match=r"half: expected the arrays of a pgcore\.batch file, got \['extras', 'rewards'\]; save it again",
    ):
        Batch.load(tmp_path / "half")


def test_a_file_of_an_invalid_batch_is_refused(make_batch, tmp_path):
    make_batch().save(tmp_path / "x")
    arrays, _ = files.read(tmp_path / "x", "pgcore.batch")
    arrays["rewards"][3] = np.nan
    files.write(tmp_path / "x", "pgcore.batch", arrays, {})
    with pytest.raises(
        BatchError, match=r"Batch\.rewards: expected finite numbers, got NaN at step 3"
    ):
        Batch.load(tmp_path / "x")


def test_a_file_of_an_earlier_release_is_read(batch_fields, tmp_path):
    # Names and mark as in files that were saved before layouts.
    arrays = {name: value for name, value in batch_fields.items() if name != "extras"}
    arrays |= {f"extras.{name}": value for name, value in batch_fields["extras"].items()}
    files.write(tmp_path / "x", "pgcore.batch", arrays, {})
    loaded = Batch.load(tmp_path / "x")
    assert_same(loaded, Batch(**batch_fields))
    assert (loaded.layout, loaded.like) == (None, None)


def test_an_index_that_changes_later_does_not_change_the_steps(batch_fields):
    batch, index = Batch(**batch_fields), np.array([0, 1])
    part, expected = batch.steps(index), batch.steps([0, 1])
    index[:] = batch.num_steps - 1
    np.testing.assert_array_equal(part.terminated, expected.terminated)


def test_episodes_of_a_batch_do_not_keep_it(batch_fields):
    batch = Batch(**batch_fields)
    part, alive = batch.episodes([0]), weakref.ref(batch)
    del batch
    gc.collect()
    assert alive() is None
    assert part.num_episodes == 1
