# Arguments of the wrong kind, and layouts that are there, are the subject of these tests.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

import pickle

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, ShapeError

# Three episodes: 2 steps and an end, 3 steps and a truncation, 1 step that the data's end truncates.
FIELDS = {
    "rewards": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    "terminated": [0, 1, 0, 0, 0, 0],
    "truncated": [0, 0, 0, 0, 1, 0],
}
OBSERVATIONS = np.arange(6.0)[:, None]
FOLLOWING = np.array([1, 70, 3, 4, 80, 90.0])[:, None]
ACTED = {"observations": OBSERVATIONS, "actions": [0, 1, 0, 1, 0, 1]}


def test_flags_divide_the_rows():
    episodes = pg.Episodes.from_steps(**FIELDS, final_values=[9, 8, 7])
    assert episodes.episode_lengths.tolist() == [2, 3, 1]
    assert episodes.terminated.tolist() == [True, False, False]
    assert episodes.rewards.tolist() == FIELDS["rewards"]
    assert episodes.final_values.tolist() == [0, 8, 7]
    assert episodes.layout is None


@pytest.mark.parametrize(
    "names",
    [
        [5, 5, -1, -1, -1, 0],
        list("bbaaac"),
        np.array(list("bbaaac"), object),
        [b"x"] * 2 + [b"y"] * 4,
    ],
)
def test_numbers_and_names_divide_them_too(names):
    episodes = pg.Episodes.from_steps(
        rewards=FIELDS["rewards"], terminated=FIELDS["terminated"], episode=names
    )
    lengths = [2, 3, 1] if names[5] != names[4] else [2, 4]
    assert episodes.episode_lengths.tolist() == lengths
    assert episodes.terminated.tolist() == [True, *[False] * (len(lengths) - 1)]
    assert episodes.layout is None


def test_rows_of_episodes_may_alternate():
    order = np.array([2, 0, 3, 5, 1, 4])
    episode = np.array([0, 0, 1, 1, 1, 2])[order]
    columns = {name: np.array(value)[order] for name, value in (FIELDS | ACTED).items()}
    batch = pg.Batch.from_steps(
        **columns, episode=episode, next_observations=FOLLOWING[order], extras={"row": range(6)}
    )
    # Episodes are in the order of their first rows.
    assert batch.rewards.tolist() == [3, 4, 5, 1, 2, 6]
    assert batch.episode_lengths.tolist() == [3, 2, 1]
    assert batch.terminated.tolist() == [False, True, False]
    assert batch.final_observations.ravel().tolist() == [80, 70, 90]
    assert batch.extras["row"].tolist() == batch.layout.positions.tolist() == [0, 2, 5, 1, 4, 3]
    np.testing.assert_array_equal(batch.layout.spread(batch.rewards), columns["rewards"])


def test_next_observations_give_final_ones():
    batch = pg.Batch.from_steps(**FIELDS, **ACTED, next_observations=FOLLOWING)
    assert batch.final_observations.ravel().tolist() == [70, 80, 90]
    np.testing.assert_array_equal(
        batch.next_observations[[0, 2, 3, 4, 5]], FOLLOWING[[0, 2, 3, 4, 5]]
    )
    by_hand = pg.Batch.from_steps(**FIELDS, **ACTED, final_observations=[[70], [80], [90]])
    np.testing.assert_array_equal(by_hand.next_observations, batch.next_observations)


def test_one_row_is_an_episode():
    batch = pg.Batch.from_steps(
        observations=[[1.0]], actions=[0], rewards=[1], terminated=[0], next_observations=[[2.0]]
    )
    assert batch.final_observations.tolist() == [[2.0]]
    assert pg.Episodes.from_steps(
        rewards=[1], terminated=[1], values=[3], episode=["a"]
    ).final_values.tolist() == [0]


WRONG = {
    "no rows": (
        {"rewards": [], "terminated": [], "truncated": []},
        BatchError,
        r" rewards: expected at least 1 step, got none; collect some steps first",
    ),
    "no end": ({"terminated": None}, BatchError, r" terminated: expected an array, got none"),
    "another length": (
        {"truncated": [0]},
        ShapeError,
        r" truncated: expected shape \[6\], got \[1\]; lay all arrays out alike",
    ),
    "rewards of two axes": (
        {"rewards": np.ones((6, 1))},
        ShapeError,
        r" rewards: expected a 1-dimensional array, got shape \[6, 1\]",
    ),
    "an end inside an episode": (
        {"episode": [0] * 6},
        BatchError,
        r" episode: expected the end of an episode in its last row, got one before it, in row 1; number",
    ),
    "episodes that are no numbers": (
        {"episode": [0.0, 0.0, 1.0, 1.0, 1.0, np.nan]},
        BatchError,
        r" episode: expected \[B\] integers or strings, got dtype float64; number the episodes",
    ),
    "episodes of several kinds": (
        {"episode": np.array([0, 0, "a", "a", "a", None], object)},
        BatchError,
        r" episode: expected \[B\] integers or strings, got others \(.*\); number the episodes",
    ),
    "ragged episodes": (
        {"episode": [[0], [1, 2], 0, 0, 0, 0]},
        BatchError,
        r" episode: expected \[B\] integers or strings, got others",
    ),
    "episodes of another length": (
        {"episode": [0, 1]},
        ShapeError,
        r" episode: expected 6 rows, one for each step, got shape \[2\]; pass the episode of every",
    ),
    "NaN": (
        {"rewards": [1, 2, np.nan, 4, 5, 6]},
        BatchError,
        r" rewards: expected finite numbers, got NaN at row 2; find where it came from",
    ),
    "NaN in another order": (
        {"rewards": [1, 2, 3, np.nan, 5, 6], "episode": [0, 1, 0, 1, 2, 3], "terminated": [0] * 6},
        BatchError,
        r" rewards: expected finite numbers, got NaN at row 3",
    ),
    "extras": ({"extras": {1: []}}, BatchError, r" extras: expected arrays by name, got dict"),
}


@pytest.mark.parametrize(("fields", "error", "words"), WRONG.values(), ids=WRONG)
def test_wrong_columns_are_refused(fields, error, words):
    with pytest.raises(error, match=rf"Episodes\.from_steps{words}") as caught:
        pg.Episodes.from_steps(**(FIELDS | fields))
    assert type(caught.value) is error


def test_next_observations_of_other_rows_are_refused():
    wrong = FOLLOWING.copy()
    wrong[3] = 5
    words = r"next_observations: expected the observation of the episode's next row, got another in row 3"
    with pytest.raises(BatchError, match=words):
        pg.Batch.from_steps(**FIELDS, **ACTED, next_observations=wrong)
    with pytest.raises(ShapeError, match=r"next_observations: expected shape \[6, 1\], as observa"):
        pg.Batch.from_steps(**FIELDS, **ACTED, next_observations=np.zeros((6, 2)))


# Replay


TRANSITIONS = {"rewards": [1.0, 2.0, 3.0], "terminated": [False, True, False]}


def test_transitions_are_episodes_of_one_step():
    batch = pg.Batch.from_replay(
        **TRANSITIONS,
        observations=[[1.0], [2.0], [3.0]],
        actions=[0, 1, 0],
        next_observations=[[5.0], [np.nan], [6.0]],
        discount=[0.81, 1, 0.9],
        weights=[0.5, 2, 1],
        log_probs=[-1, -2, -3],
        extras={"next_action_mask": np.ones((3, 2), bool)},
    )
    assert batch.episode_lengths.tolist() == [1, 1, 1]
    assert batch.next_observations.ravel().tolist() == [5, 2, 6]
    assert list(batch.step_discounts(0.5)) == [0.405, 0.5, 0.45]
    assert batch.next_action_mask.all()
    weights = pg.WeightedSteps("sum").weights(batch)
    assert weights.tolist() == [0.5, 2, 1]


def test_values_stand_for_next_observations():
    episodes = pg.Episodes.from_replay(**TRANSITIONS, next_values=[5, np.nan, 6])
    assert episodes.final_values.tolist() == [5, 0, 6]
    ended = pg.Episodes.from_replay(rewards=[1], terminated=[True], values=[4])
    assert ended.final_values.tolist() == [0]


def test_a_replay_is_the_steps_of_its_episodes():
    whole = pg.Batch.from_steps(**FIELDS, **ACTED, next_observations=FOLLOWING)
    replay = pg.Batch.from_replay(
        **ACTED,
        rewards=FIELDS["rewards"],
        terminated=FIELDS["terminated"],
        next_observations=FOLLOWING,
    )
    steps = whole.steps(slice(None))
    for name in ("observations", "actions", "rewards", "episode_lengths", "next_observations"):
        np.testing.assert_array_equal(getattr(replay, name), getattr(steps, name), name)


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        (
            {"rewards": [], "terminated": []},
            BatchError,
            r" rewards: expected at least 1 step, got none",
        ),
        ({"terminated": [1, 0]}, ShapeError, r" terminated: expected shape \[3\], got \[2\]"),
        (
            {"next_values": None, "values": [1, 2, 3]},
            BatchError,
            r": expected next_values after transitions that do not end, got none at step 0; pass",
        ),
        ({"next_values": [1, 2]}, ShapeError, r" next_values: expected shape \[3, '\.\.\.'\]"),
        ({"weights": [1, 2]}, ShapeError, r" weights: expected shape \[3, '\.\.\.'\], got \[2\]"),
        (
            {"weights": [1, 2, 3], "extras": {"weights": [1, 2, 3]}},
            BatchError,
            r" weights: expected it once, got it as an argument and among extras",
        ),
        (
            {"values": [1, 2, np.inf]},
            BatchError,
            r" values: expected finite numbers, got infinity at row 2",
        ),
    ],
)
def test_wrong_transitions_are_refused(fields, error, words):
    with pytest.raises(error, match=rf"Episodes\.from_replay{words}"):
        pg.Episodes.from_replay(**(TRANSITIONS | {"next_values": [1, 2, 3]} | fields))


def test_a_batch_of_transitions_needs_what_followed():
    with pytest.raises(
        BatchError, match=r"expected next_observations or next_values after transit"
    ):
        pg.Batch.from_replay(**TRANSITIONS, observations=np.eye(3), actions=[0, 0, 0])


# Data frames


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_columns_of_a_data_frame(library):
    frames = pytest.importorskip(library)
    frame = frames.DataFrame(
        {
            "reward": FIELDS["rewards"],
            "terminated": [bool(x) for x in FIELDS["terminated"]],
            "truncated": [bool(x) for x in FIELDS["truncated"]],
            "episode": list("bbaaac"),
            "x": OBSERVATIONS[:, 0],
            "y": -OBSERVATIONS[:, 0],
            "action": ACTED["actions"],
        }
    )
    batch = pg.Batch.from_steps(
        observations=frame[["x", "y"]],
        actions=frame["action"],
        rewards=frame["reward"],
        terminated=frame["terminated"],
        truncated=frame["truncated"],
        episode=frame["episode"],
        extras={"teacher": frame["x"]},
    )
    assert batch.like is None
    assert batch.episode_lengths.tolist() == [2, 3, 1]
    assert batch.rewards.tolist() == FIELDS["rewards"]
    np.testing.assert_array_equal(batch.observations, np.hstack([OBSERVATIONS, -OBSERVATIONS]))
    assert batch.actions.tolist() == ACTED["actions"]


# Frameworks


CONVERT = {
    "torch": lambda torch: torch.as_tensor,
    "jax.numpy": lambda jnp: jnp.asarray,
    "tensorflow": lambda tensorflow: tensorflow.convert_to_tensor,
}
CONSTRUCTORS = {
    "from_steps": {name: np.array(value) for name, value in FIELDS.items()},
    "from_rollout": {
        "rewards": np.ones((2, 3)),
        "terminated": np.ones((2, 3), bool) & (np.arange(2) == 1)[:, None],
        "truncated": np.zeros((2, 3), bool),
    },
    "from_padded": {"rewards": np.ones((2, 3)), "mask": np.ones((2, 3), bool)},
    "from_replay": {"rewards": np.ones(3), "terminated": np.ones(3, bool)},
}


@pytest.mark.parametrize("constructor", CONSTRUCTORS)
@pytest.mark.parametrize("library", CONVERT)
def test_a_frameworks_arrays_are_read_and_remembered(library, constructor):
    convert = CONVERT[library](pytest.importorskip(library))
    fields = {
        name: convert(x.astype(np.float32) if x.dtype == float else x)
        for name, x in CONSTRUCTORS[constructor].items()
    }
    make = getattr(pg.Episodes, constructor)
    episodes, plain = make(**fields), make(**CONSTRUCTORS[constructor])
    assert type(episodes.like) is type(fields["rewards"])
    assert (len(episodes.like), plain.like) == (0, None)
    for name in (*episodes.per_step, *episodes.per_episode):
        np.testing.assert_array_equal(getattr(episodes, name), getattr(plain, name), name)
    assert episodes.steps([0]).like is episodes.episodes([0]).like is episodes.like


def test_the_first_framework_array_is_that_of_an_extra():
    torch = pytest.importorskip("torch")
    fields = CONSTRUCTORS["from_replay"]
    weights, teacher = torch.ones(3), torch.ones(3, dtype=torch.float64)
    assert (
        pg.Episodes.from_replay(**fields, extras={"teacher": teacher}).like.dtype == torch.float64
    )
    both = pg.Episodes.from_replay(**fields, weights=weights, extras={"teacher": teacher})
    assert both.like.dtype == torch.float32


@pytest.mark.parametrize("constructor", CONSTRUCTORS)
def test_half_precision_and_differentiated_arrays_are_read(constructor):
    torch = pytest.importorskip("torch")
    rewards = torch.as_tensor(CONSTRUCTORS[constructor]["rewards"], dtype=torch.bfloat16)
    log_probs = (-rewards).requires_grad_()
    fields = CONSTRUCTORS[constructor] | {"rewards": rewards, "log_probs": log_probs}
    make = getattr(pg.Episodes, constructor)
    episodes = make(**fields)
    np.testing.assert_array_equal(episodes.log_probs, -episodes.rewards)
    assert (episodes.like.dtype, episodes.like.requires_grad) == (torch.bfloat16, False)
    by_log_probs = make(**(fields | {"rewards": CONSTRUCTORS[constructor]["rewards"]}))
    assert not by_log_probs.like.requires_grad
    # A graph of the policy could be neither copied nor pickled.
    copied = pickle.loads(pickle.dumps(by_log_probs))
    assert copied.like.dtype == torch.bfloat16


def test_what_follows_is_passed_once():
    with pytest.raises(BatchError, match="next_observations or final_observations, got both"):
        pg.Batch.from_steps(
            **FIELDS, **ACTED, next_observations=FOLLOWING, final_observations=[[70], [80], [90]]
        )
