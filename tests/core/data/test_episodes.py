import copy
import pickle

import numpy as np
import pytest

import pgcore as pg
from pgcore.data import files
from pgcore.data.layout import Layout
from pgcore.errors import BatchError, FileError, ShapeError

FIELDS = {
    "rewards": np.array([1.0, -2.0, 0.5, 3.0, 0.25]),
    "episode_lengths": np.array([2, 3]),
    "terminated": np.array([True, False]),
    "log_probs": -np.arange(5.0),
    "values": np.array([0.5, 1.0, -1.0, 2.0, 0.0]),
    "final_values": np.array([9.0, 4.0]),
    "discount": np.array([1.0, 0.5, 1.0, 0.25, 1.0]),
    "extras": {"group": [7, 7, 2, 2, 2], "next_action_mask": np.eye(5)[:, :2] == 0},
}


@pytest.fixture
def episodes():
    return pg.Episodes(**FIELDS)


@pytest.fixture
def batch():
    """The same steps with observations and actions."""
    return pg.Batch(observations=np.eye(5), actions=[0, 1, 0, 1, 1], **FIELDS)


DERIVED = {
    "itself": lambda x: x,
    "steps": lambda x: x.steps([4, 0, 1]),
    "steps of steps": lambda x: x.steps([4, 3, 1]).steps([1, 2]),
    "episodes": lambda x: x.episodes([1, 0]),
    "padded": lambda x: x.pad(8),
    "concatenated": lambda x: type(x).concatenate([x, x.episodes([1])]),
    "with extras": lambda x: x.with_extras(teacher=np.arange(5)),
    "recorded": lambda x: x.record(np.ones(5), np.ones(2)),
    "copied": copy.deepcopy,
    "unpickled": lambda x: pickle.loads(pickle.dumps(x)),
}
NAMES = (
    *(*pg.Episodes.per_step, *pg.Episodes.per_episode, "next_action_mask", "loss_mask"),
    *("episode_starts", "episode_ends", "episode_of_step", "step_in_episode", "episode_weights"),
)


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_episodes_are_a_batch_without_observations(episodes, batch, derive):
    left, right = derive(episodes), derive(batch)
    assert type(left) is pg.Episodes
    assert type(right) is pg.Batch
    assert (left.num_steps, left.num_episodes) == (right.num_steps, right.num_episodes)
    for name in NAMES:
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name), name)
    assert left.extras.keys() == right.extras.keys()
    for name, value in left.extras.items():
        np.testing.assert_array_equal(value, right.extras[name])
    np.testing.assert_array_equal(left.step_discounts(0.5), right.step_discounts(0.5))
    for name in NAMES:
        value = getattr(left, name)
        assert value is None or not value.flags.writeable, name


def test_episodes_know_their_sizes_and_class(episodes, batch):
    assert repr(episodes) == "Episodes(5 steps, 2 episodes)"
    assert repr(batch) == "Batch(5 steps, 2 episodes, observations [5, 5])"
    assert pg.Episodes(rewards=[1.0], episode_lengths=[1], terminated=[True]).extras == {}


def test_minibatches_are_those_of_a_batch(episodes, batch):
    left, right = (x.minibatches(2, np.random.default_rng(0)) for x in (episodes, batch))
    for mine, its in zip(left, right, strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize(
    "name",
    ["observations", "actions", "action_mask", "final_observations", "next_observations"],
)
def test_attributes_of_a_batch_say_what_is_missing(episodes, batch, name):
    if name in ("observations", "actions", "action_mask", "final_observations"):
        getattr(batch, name)
    with pytest.raises(
        BatchError, match=rf"Episodes\.{name}: expected a batch, got episodes without observations"
    ):
        getattr(episodes, name)


def test_no_attribute_can_be_set(episodes):
    with pytest.raises(AttributeError, match=r"Episodes\.rewards: expected no assignment"):
        episodes.rewards = np.zeros(5)
    with pytest.raises(AttributeError):
        getattr(episodes, "nonsense")  # noqa: B009


def test_a_policy_refuses_episodes(episodes):
    policy = pg.policy(pg.PolicySpec(pg.Linear(5), pg.Categorical(2)))
    with pytest.raises(BatchError, match=r"Episodes\.observations: expected a batch"):
        pg.gradient(policy, pg.estimator("reinforce"), episodes)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        (
            {"rewards": []},
            BatchError,
            r"Episodes\.rewards: expected at least 1 step, got none; collect some",
        ),
        (
            {"rewards": [[1.0]]},
            ShapeError,
            r"Episodes\.rewards: expected a 1-dimensional array, got shape \[1, 1\]",
        ),
        (
            {"log_probs": [0.0]},
            ShapeError,
            r"Episodes\.log_probs: expected 5 rows, one for each step, got shape \[1\]",
        ),
        (
            {"rewards": [0, 0, np.nan, 0, 0]},
            BatchError,
            r"Episodes\.rewards: expected finite numbers, got NaN at step 2",
        ),
        (
            {"episode_lengths": [5, 1]},
            ShapeError,
            r"Episodes\.episode_lengths: expected lengths that sum to 5 steps, got a sum of 6",
        ),
        (
            {"terminated": [True]},
            ShapeError,
            r"Episodes\.terminated: expected 2 rows, one for each episode",
        ),
        (
            {"extras": {"group": [1]}},
            ShapeError,
            r"Episodes\.extras\['group'\]: expected 5 rows, one for each step",
        ),
        ({"extras": [1]}, BatchError, r"Episodes\.extras: expected arrays by name, got list"),
        ({"discount": [2] * 5}, BatchError, r"Episodes\.discount: expected numbers in \[0, 1\]"),
    ],
)
def test_wrong_fields_are_refused_by_name(fields, error, words):
    with pytest.raises(error, match=words):
        pg.Episodes(**(FIELDS | fields))


def test_wrong_indices_and_sizes_name_the_class(episodes):
    for use, words in {
        lambda: episodes.steps([9]): r"Episodes\.steps: expected step numbers in \[0, 5\)",
        lambda: episodes.episodes([]): r"Episodes\.episodes: expected at least 1 episode",
        lambda: episodes.pad(1): r"Episodes\.pad: expected at least 5 steps, got 1",
        lambda: next(episodes.minibatches(0, np.random.default_rng(0))): (
            r"Episodes\.minibatches size: expected an integer of at least 1"
        ),
        lambda: pg.Episodes.concatenate([]): r"Episodes\.concatenate: expected at least 1 batch",
        lambda: pg.Batch.concatenate([episodes]): r"Episodes\.observations: expected a batch",
    }.items():
        with pytest.raises(BatchError, match=words):
            use()


def test_batches_can_be_joined_as_episodes(batch):
    joined = pg.Episodes.concatenate([batch, batch])
    assert type(joined) is pg.Episodes
    assert joined.extras["group"].tolist() == [1, 1, 0, 0, 0, 3, 3, 2, 2, 2]


def laid_out(episodes):
    """Return them as if a constructor had read them from [2, 3]."""
    episodes.__dict__["layout"] = Layout((2, 3), np.array([0, 1, 3, 4, 5]))
    return episodes


@pytest.mark.parametrize("kind", ["episodes", "batch"])
def test_files_hold_fields_and_layout(request, tmp_path, kind):
    saved = laid_out(request.getfixturevalue(kind))
    saved.save(tmp_path / "x")
    loaded = type(saved).load(tmp_path / "x")
    assert type(loaded) is type(saved)
    for name in (*saved.per_step, *saved.per_episode):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name), name)
    assert loaded.layout.shape == (2, 3)
    np.testing.assert_array_equal(loaded.layout.positions, saved.layout.positions)
    saved.steps([0]).save(tmp_path / "y")
    assert type(saved).load(tmp_path / "y").layout is None


def test_a_file_of_the_other_class_is_refused(episodes, batch, tmp_path):
    episodes.save(tmp_path / "episodes")
    batch.save(tmp_path / "batch")
    with pytest.raises(FileError, match=r"expected a pgcore\.batch file, got format 'pgcore\.epi"):
        pg.Batch.load(tmp_path / "episodes")
    with pytest.raises(FileError, match=r"expected a pgcore\.episodes file, got format 'pgcore\.b"):
        pg.Episodes.load(tmp_path / "batch")


@pytest.mark.parametrize(
    "layout",
    [
        {"layout.shape": np.array([2, 2])},
        {"layout.positions": np.arange(5)},
        {"layout.shape": np.array([2, 3]), "layout.positions": np.arange(4)},
        {"layout.shape": np.array([2, 2]), "layout.positions": np.arange(5)},
        {"layout.shape": np.array([2, 3]), "layout.positions": np.zeros(5, np.int64)},
        {"layout.shape": np.array([-2, 3]), "layout.positions": np.arange(5)},
        {"layout.shape": np.array([2.5, 3]), "layout.positions": np.arange(5)},
        {"layout.shape": np.array([2, 3]), "layout.positions": np.arange(5.0)},
        {"layout.shape": np.array([[2, 3]]), "layout.positions": np.arange(5)},
    ],
)
def test_a_file_of_an_impossible_layout_is_refused(episodes, tmp_path, layout):
    episodes.save(tmp_path / "x")
    arrays, _ = files.read(tmp_path / "x", "pgcore.episodes")
    files.write(tmp_path / "x", "pgcore.episodes", arrays | layout, {})
    with pytest.raises(FileError, match=r"x: expected a layout of 5 steps, got .*; save it again"):
        pg.Episodes.load(tmp_path / "x")


def test_parts_of_laid_out_episodes_are_flat(episodes):
    whole = laid_out(episodes)
    for name in ("with extras", "recorded", "copied", "unpickled"):
        np.testing.assert_array_equal(DERIVED[name](whole).layout.positions, [0, 1, 3, 4, 5], name)
    for name in ("steps", "episodes", "padded", "concatenated"):
        assert DERIVED[name](whole).layout is None, name


@pytest.mark.parametrize("derive", DERIVED.values(), ids=DERIVED)
def test_the_first_framework_array_is_remembered(derive):
    torch = pytest.importorskip("torch")
    rewards, values = torch.arange(5, dtype=torch.float32), torch.ones(5, dtype=torch.float64)
    episodes = derive(pg.Episodes(**(FIELDS | {"rewards": rewards, "values": values})))
    assert isinstance(episodes.like, torch.Tensor)
    assert (episodes.like.shape, episodes.like.dtype) == ((0,), torch.float32)
    assert type(episodes.rewards) is np.ndarray


@pytest.mark.parametrize("name", ["observations", "next_observations"])
def test_the_class_itself_has_no_batches_attributes(name):
    # Tools that read a class's attributes see a placeholder, and no error.
    assert repr(getattr(pg.Episodes, name)).startswith("<")
    assert {"observations", "rewards", "from_steps"} - set(dir(pg.Episodes)) == {"rewards"}


def test_numpys_numbers_are_no_framework_arrays():
    extras = {"group": np.zeros(1, int)}
    episodes = pg.Episodes(
        rewards=[np.float64(1)], episode_lengths=(np.int64(1),), terminated=[True], extras=extras
    )
    assert episodes.like is None
    with pytest.raises(ShapeError, match=r"Episodes\.rewards: expected a 1-dimensional array"):
        pg.Episodes(rewards=np.float64(1), episode_lengths=[1], terminated=[True])


def test_next_action_masks_of_episodes_are_the_extra():
    bare = pg.Episodes(rewards=[1.0], episode_lengths=[1], terminated=[True])
    assert bare.next_action_mask is None
    assert bare.pad(2).final_values is None
    mask = bare.with_extras(next_action_mask=[[1, 0]]).next_action_mask
    np.testing.assert_array_equal(mask, [[True, False]], strict=True)


EPISODES = {"rewards": [1.0, 2.0], "episode_lengths": [1, 1], "terminated": [True, True]}
LOG_PROBS = {"log_probs": [-1.0, -1.0]}


@pytest.mark.parametrize(
    ("estimator", "fields", "words"),
    [
        (
            {"name": "grpo"},
            LOG_PROBS,
            r"Episodes\.extras\['group'\]: expected \[B\] integers, one number for all",
        ),
        (
            {"name": "ppo", "value_clip": 0.2},
            LOG_PROBS,
            r"Episodes\.values: expected the critic's values at the time",
        ),
        (
            {"name": "reinforce", "reduction": {"name": "weighted"}},
            {},
            r"Episodes\.extras\['weights'\]: expected \[B\] numbers",
        ),
    ],
)
def test_what_signals_need_of_episodes_is_named(estimator, fields, words):
    with pytest.raises(BatchError, match=words):
        # An evaluation of now is no recorded value.
        pg.signals(pg.estimator(**estimator), pg.Episodes(**EPISODES, **fields), value=[0.0, 0.0])
