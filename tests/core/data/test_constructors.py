"""Laws of the constructors of episodes: what comes out of any arguments, beside loops over rows."""

# Arguments of the wrong kind, and layouts that are there, are the subject of these tests.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

import copy
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pgcore as pg
from pgcore.errors import PgcoreError

anything = st.one_of(
    st.none(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=3),
    st.dictionaries(st.text(max_size=2), st.lists(st.integers(0, 2), max_size=6), max_size=2),
    st.lists(
        st.one_of(
            st.integers(-3, 3), st.floats(), st.none(), st.lists(st.integers(0, 2), max_size=3)
        ),
        max_size=6,
    ),
    hnp.arrays(
        st.one_of(hnp.scalar_dtypes(), st.just(np.dtype(object)), st.just(np.dtype(np.longdouble))),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6),
    ),
)
OF_STEPS = ("log_probs", "values", "discount")
GRID = (4, 2)


def zeros(shape, *names):
    return {name: np.zeros(shape) for name in (*names, *OF_STEPS)}


# Arguments that are right, of every name: of episodes, and further ones of a batch.
ARGUMENTS = {
    "from_steps": (
        zeros(4, "rewards", "terminated", "truncated")
        | {"episode": np.array([0, 0, 1, 1]), "final_values": np.zeros(2), "extras": None},
        {"observations": np.zeros((4, 1)), "actions": np.zeros(4, int)}
        | {"action_mask": np.ones((4, 2)), "next_observations": np.zeros((4, 1))}
        | {"final_observations": None},
    ),
    "from_rollout": (
        zeros(GRID, "rewards", "terminated", "truncated", "final_values")
        | {"last_values": np.zeros(2), "previous_done": np.array([True, False]), "extras": None}
        | {"order": "time", "autoreset": "next_step"},
        {"observations": np.zeros((*GRID, 1)), "actions": np.zeros(GRID, int)}
        | {"action_mask": np.ones((*GRID, 2)), "last_observations": np.zeros((2, 1))}
        | {"final_observations": np.zeros((*GRID, 1))},
    ),
    "from_padded": (
        zeros(GRID, "rewards", "rollout_log_probs", "reference_log_probs", "loss_mask")
        | {"mask": np.ones(GRID), "group": np.zeros(4, int), "truncated": np.zeros(4)}
        | {"final_values": np.zeros(4), "extras": None},
        {"observations": np.zeros((*GRID, 1)), "actions": np.zeros(GRID, int)}
        | {"action_mask": np.ones((*GRID, 2)), "final_observations": np.zeros((4, 1))},
    ),
    "from_replay": (
        zeros(4, "rewards", "terminated", "next_values", "weights") | {"extras": None},
        {"observations": np.zeros((4, 1)), "actions": np.zeros(4, int)}
        | {"action_mask": np.ones((4, 2)), "next_observations": np.zeros((4, 1))},
    ),
}


@pytest.mark.parametrize("kind", [pg.Episodes, pg.Batch])
@pytest.mark.parametrize("constructor", ARGUMENTS)
def test_arguments_that_are_right_are_taken(constructor, kind):
    of_episodes, of_batches = ARGUMENTS[constructor]
    result = getattr(kind, constructor)(
        **(of_episodes if kind is pg.Episodes else of_episodes | of_batches)
    )
    assert type(result) is kind
    # Neither a copy nor a file loses the layout.
    for clone in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):
        assert (clone.layout is None) == (result.layout is None)
        if result.layout is not None:
            np.testing.assert_array_equal(clone.layout.steps, result.layout.steps)


@pytest.mark.parametrize("constructor", ARGUMENTS)
def test_writing_to_the_callers_arrays_changes_nothing(constructor):
    of_episodes, of_batches = ARGUMENTS[constructor]
    fields = copy.deepcopy(of_episodes | of_batches)
    fields["extras"] = {"teacher": np.zeros_like(fields["log_probs"])}
    batch = getattr(pg.Batch, constructor)(**fields)
    names = [*batch.per_step, *batch.per_episode]
    before = copy.deepcopy({name: getattr(batch, name) for name in names} | dict(batch.extras))
    for array in (*fields.values(), fields["extras"]["teacher"]):
        if isinstance(array, np.ndarray):
            assert array.flags.writeable
            array[...] = 1 - array
    for name, value in before.items():
        array = batch.extras[name] if name in batch.extras else getattr(batch, name)
        np.testing.assert_array_equal(array, value, name)
        assert array is None or not array.flags.writeable


@settings(max_examples=150)
@pytest.mark.parametrize("constructor", ARGUMENTS)
@given(data=st.data())
def test_only_pgcore_errors_come_out_of_a_constructor(constructor, data):
    fields, of_batches = ARGUMENTS[constructor]
    kind = data.draw(st.sampled_from([pg.Episodes, pg.Batch]))
    fields = dict(fields | of_batches if kind is pg.Batch else fields)
    for name in data.draw(st.sets(st.sampled_from(sorted(fields)), min_size=1, max_size=2)):
        fields[name] = data.draw(anything, label=name)
    try:
        getattr(kind, constructor)(**fields)
    except PgcoreError as error:
        message = str(error)
        assert ": expected " in message
        assert ", got " in message
        assert len(message) < 500, "never a whole array"


rewards = st.integers(1, 9).map(float)


@st.composite
def rollouts(draw, autoreset):
    """Return a rollout's arguments, [T, N], and the episodes of each environment by a loop over rows."""
    times, count = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    arrays = {name: np.zeros((times, count)) for name in ("rewards", "values", "final_values")}
    flags = {name: np.zeros((times, count), bool) for name in ("terminated", "truncated")}
    last = np.array(draw(st.lists(rewards, min_size=count, max_size=count)))
    previous = np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)))
    if autoreset != "next_step":
        previous[:] = False
    elif times == 1:
        previous[0] = False
    episodes = []
    for environment in range(count):
        resetting, episode = previous[environment], None
        for time in range(times):
            place = time, environment
            arrays["values"][place] = draw(rewards)
            if resetting:
                resetting = False
                continue
            arrays["rewards"][place] = draw(rewards)
            arrays["final_values"][place] = math.nan
            episode = episode or {"rewards": [], "positions": [], "end": (False, None)}
            episode["rewards"].append(arrays["rewards"][place])
            episode["positions"].append(time * count + environment)
            kind = draw(st.sampled_from(["", "", "terminated", "truncated"]))
            if not kind:
                continue
            flags[kind][place] = True
            arrays["final_values"][place] = 10 + time
            episodes.append(episode | {"end": (kind == "terminated", 10.0 + time)})
            episode, resetting = None, autoreset == "next_step"
        if episode:
            episodes.append(episode | {"end": (False, last[environment])})
    arguments = arrays | flags | {"last_values": last, "autoreset": autoreset}
    return arguments | ({"previous_done": previous} if previous.any() else {}), episodes


def assert_are(episodes, expected):
    """Compare episodes with those of a loop over rows."""
    assert episodes.rewards.tolist() == [r for episode in expected for r in episode["rewards"]]
    assert episodes.episode_lengths.tolist() == [len(episode["rewards"]) for episode in expected]
    assert episodes.terminated.tolist() == [episode["end"][0] for episode in expected]
    finals = [0.0 if terminated else value for terminated, value in (e["end"] for e in expected)]
    assert episodes.final_values.tolist() == finals


@pytest.mark.parametrize("autoreset", ["next_step", "same_step", "disabled"])
@given(data=st.data())
def test_a_rollout_is_a_loop_over_its_rows(autoreset, data):
    arguments, expected = data.draw(rollouts(autoreset))
    episodes = pg.Episodes.from_rollout(**arguments)
    assert_are(episodes, expected)
    positions = [place for episode in expected for place in episode["positions"]]
    assert episodes.layout.positions.tolist() == positions
    np.testing.assert_array_equal(episodes.values, episodes.layout.flat(arguments["values"]))

    # The other order is the same episodes, at other places.
    swapped = {
        name: np.swapaxes(value, 0, 1) if np.ndim(value) == 2 else value
        for name, value in arguments.items()
    }
    other = pg.Episodes.from_rollout(**swapped, order="env")
    assert_are(other, expected)
    np.testing.assert_array_equal(other.layout.steps.T, episodes.layout.steps)


@given(
    mask=hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)),
    data=st.data(),
)
def test_padded_rows_are_a_loop_over_their_steps(mask, data):
    mask[:, -1] |= ~mask.any(axis=1)
    array = np.arange(float(mask.size)).reshape(mask.shape)
    truncated = data.draw(hnp.arrays(np.bool_, len(mask)))
    episodes = pg.Episodes.from_padded(
        rewards=np.where(mask, array, np.nan),
        mask=mask,
        truncated=truncated,
        values=np.where(mask, array, np.inf),
        final_values=np.arange(10.0, 10 + len(mask)),
    )
    expected = [
        {"rewards": [array[i, j] for j in range(mask.shape[1]) if mask[i, j]]}
        | {"end": (not truncated[i], 10.0 + i)}
        for i in range(len(mask))
    ]
    assert_are(episodes, expected)
    np.testing.assert_array_equal(
        episodes.layout.spread(episodes.rewards, np.nan), np.where(mask, array, np.nan)
    )


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.randoms())
def test_columns_in_any_order_are_a_loop_over_their_episodes(names, random):
    numbers = list(range(len(names)))
    ended = {name: random.random() < 0.5 for name in names}
    by_name = {name: [n for n in numbers if names[n] == name] for name in names}
    terminated = [ended[names[n]] and n == by_name[names[n]][-1] for n in numbers]
    episodes = pg.Episodes.from_steps(
        rewards=numbers,
        terminated=terminated,
        episode=names,
        final_values=np.arange(10.0, 10 + len(by_name)),
    )
    expected = [
        {"rewards": rows, "end": (ended[name], 10.0 + i)}
        for i, (name, rows) in enumerate(by_name.items())
    ]
    assert_are(episodes, expected)
    if episodes.layout is not None:
        assert episodes.layout.spread(episodes.rewards).tolist() == numbers
    else:
        assert episodes.rewards.tolist() == numbers
