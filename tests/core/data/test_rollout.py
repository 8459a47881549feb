"""Rollouts in Gymnasium's vectors of environments, beside the same episodes collected one by one."""

# Arguments of the wrong kind, and layouts that are there, are the subject of these tests.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false, reportAttributeAccessIssue=false

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import pgcore as pg
from pgcore.errors import BatchError, ShapeError

SEED, COUNT = 11, 3
# Environments whose episodes terminate and are truncated within some 12 steps; observations [4] and integers.
MAKERS = {
    "cart pole": lambda: gymnasium.make("CartPole-v1", max_episode_steps=9),
    "frozen lake": lambda: gymnasium.make("FrozenLake-v1", max_episode_steps=5),
}


def action_of(observation, number):
    """Return an action that depends on the observation, and on the environment."""
    return int(np.sum(np.abs(np.asarray(observation, float)) * 1e4) + number) % 2 + number % 2


def one_by_one(make, number, steps):
    """Yield the episodes of one environment, `steps` in all: dicts of lists, and what followed them."""
    environment = make()
    observation, _ = environment.reset(seed=SEED + number)
    while steps:
        episode = {"observations": [], "actions": [], "rewards": []}
        terminated = truncated = False
        while steps and not (terminated or truncated):
            action = min(action_of(observation, number), environment.action_space.n - 1)
            episode["observations"].append(observation)
            episode["actions"].append(action)
            observation, reward, terminated, truncated, _ = environment.step(action)
            episode["rewards"].append(reward)
            steps -= 1
        yield episode | {"terminated": terminated, "final": observation}
        if terminated or truncated:
            observation, _ = environment.reset()


def collected(make, mode, length, previous=None):
    """Return a vector's rollout of `length` rows as [T, N] arrays, and the vector with its state."""
    if previous is None:
        vector = SyncVectorEnv([make] * COUNT, autoreset_mode=mode)
        observations, done = vector.reset(seed=SEED)[0], np.zeros(COUNT, bool)
    else:
        vector, observations, done = previous
    rows = {name: [] for name in ("observations", "actions", "rewards", "terminated", "truncated")}
    finals = []
    for _ in range(length):
        limit = vector.single_action_space.n - 1
        actions = [min(action_of(o, n), limit) for n, o in enumerate(observations)]
        rows["observations"].append(observations)
        rows["actions"].append(actions)
        observations, rewards, terminated, truncated, info = vector.step(np.array(actions))
        rows["rewards"].append(rewards)
        rows["terminated"].append(terminated)
        rows["truncated"].append(truncated)
        done = terminated | truncated
        finals.append(info.get("final_obs"))
        if mode is AutoresetMode.DISABLED and done.any():
            finals[-1] = list(observations)
            observations, _ = vector.reset(options={"reset_mask": done})
    arrays = {name: np.array(value) for name, value in rows.items()}
    arrays["last_observations"] = observations
    if mode is not AutoresetMode.NEXT_STEP:
        arrays["final_observations"] = finals
    return arrays, (vector, observations, done)


def assert_episodes(batch, episodes):
    """Compare a batch with episodes collected one by one."""
    assert batch.episode_lengths.tolist() == [len(episode["rewards"]) for episode in episodes]
    assert batch.terminated.tolist() == [episode["terminated"] for episode in episodes]
    for name in ("observations", "actions", "rewards"):
        rows = np.array([row for episode in episodes for row in episode[name]])
        np.testing.assert_array_equal(getattr(batch, name), rows, name)
    for number in np.flatnonzero(~batch.terminated):
        np.testing.assert_array_equal(batch.final_observations[number], episodes[number]["final"])


def reference(make, steps):
    """Return the episodes of all environments, with so many steps of each."""
    return [
        episode for number in range(COUNT) for episode in one_by_one(make, number, steps[number])
    ]


def steps_of(batch, shape):
    """Return [N] the steps of each environment of a batch laid out as [T, N]."""
    return np.bincount(batch.layout.positions % shape[1], minlength=shape[1])


@pytest.mark.parametrize("order", ["time", "env"])
@pytest.mark.parametrize("autoreset", ["next_step", "same_step", "disabled"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_rollout_is_the_episodes_collected_one_by_one(make, autoreset, order):
    mode = AutoresetMode[autoreset.upper()]
    arrays, _ = collected(make, mode, 40)
    shape = arrays["rewards"].shape
    if order == "env":
        for name, array in arrays.items():
            if name == "final_observations":
                rows = [[None if r is None else r[n] for r in array] for n in range(COUNT)]
                arrays[name] = rows
            elif name != "last_observations":
                arrays[name] = np.swapaxes(array, 0, 1)
    batch = pg.Batch.from_rollout(**arrays, autoreset=autoreset, order=order)
    steps = steps_of(batch, shape) if order == "time" else batch.layout.steps.sum(axis=1)
    if autoreset == "next_step":
        assert steps.max() < 40
    else:
        assert steps.tolist() == [40] * COUNT
    episodes = reference(make, steps)
    # Both kinds of ends occur, and one at the rollout's end.
    assert len({bool(episode["terminated"]) for episode in episodes}) == 2
    assert_episodes(batch, episodes)
    np.testing.assert_array_equal(batch.layout.flat(arrays["rewards"]), batch.rewards)
    laid_out = np.where(batch.layout.steps, arrays["rewards"], 0)
    np.testing.assert_array_equal(batch.layout.spread(batch.rewards), laid_out)


@pytest.mark.parametrize("length", range(1, 25, 2))
@pytest.mark.parametrize("autoreset", ["next_step", "same_step", "disabled"])
def test_rollouts_one_after_the_other_are_the_same_steps(autoreset, length):
    mode, make = AutoresetMode[autoreset.upper()], MAKERS["cart pole"]
    state, rewards, observations = None, [[] for _ in range(COUNT)], [[] for _ in range(COUNT)]
    for _ in range(60 // length):
        previous = {}
        if state is not None and autoreset == "next_step":
            previous["previous_done"] = state[2]
        arrays, state = collected(make, mode, length, state)
        if previous and previous["previous_done"].all() and length == 1:
            continue
        batch = pg.Batch.from_rollout(**arrays, **previous, autoreset=autoreset)
        environments = batch.layout.positions % COUNT
        for number in range(COUNT):
            rewards[number] += batch.rewards[environments == number].tolist()
            observations[number] += batch.observations[environments == number].tolist()
    for number in range(COUNT):
        episodes = list(one_by_one(make, number, len(rewards[number])))
        assert len(episodes) > 3
        assert rewards[number] == [reward for e in episodes for reward in e["rewards"]]
        assert observations[number] == [o.tolist() for e in episodes for o in e["observations"]]


def test_values_of_reset_rows_are_final_values():
    arrays, _ = collected(MAKERS["cart pole"], AutoresetMode.NEXT_STEP, 40)
    value = lambda observations: observations @ np.array([1.0, -2.0, 0.5, 3.0])  # noqa: E731
    batch = pg.Batch.from_rollout(
        **arrays,
        values=value(arrays["observations"]),
        last_values=value(arrays["last_observations"]),
    )
    truncated = ~batch.terminated
    assert truncated.sum() > COUNT
    expected = value(batch.final_observations)[truncated]
    np.testing.assert_array_equal(batch.final_values[truncated], expected)
    assert not batch.final_values[batch.terminated].any()
    np.testing.assert_array_equal(batch.values, value(batch.observations))


def test_the_signals_of_a_rollout_are_those_of_its_episodes():
    arrays, _ = collected(MAKERS["cart pole"], AutoresetMode.NEXT_STEP, 30)
    policy = pg.policy(pg.PolicySpec(pg.Linear(4), pg.Categorical(2), critic="separate"))
    estimator = pg.estimator("ppo", gamma=0.9)
    batch = pg.Batch.from_rollout(**arrays)
    by_hand = pg.Batch(
        observations=batch.observations,
        actions=batch.actions,
        rewards=batch.rewards,
        episode_lengths=batch.episode_lengths,
        terminated=batch.terminated,
        final_observations=batch.final_observations,
    )
    left, right = (pg.signals(policy, estimator, x)["advantage"] for x in (batch, by_hand))
    np.testing.assert_array_equal(left, right)


# Rows by hand: two environments, the first terminates in row 1, the second is truncated in row 2.
TERMINATED = np.array([[0, 0], [1, 0], [0, 0], [0, 0], [0, 0]], bool)
TRUNCATED = np.array([[0, 0], [0, 0], [0, 1], [0, 0], [0, 0]], bool)
OBSERVATIONS = np.arange(10.0).reshape(5, 2, 1)
ROWS = {
    "observations": OBSERVATIONS,
    "actions": np.zeros((5, 2), int),
    "rewards": np.array([[1, 2], [3, 4], [0, 5], [6, 0], [7, 8.0]]),
    "terminated": TERMINATED,
    "truncated": TRUNCATED,
}
NO_RESETS = ROWS | {"final_observations": OBSERVATIONS + 100, "autoreset": "same_step"}
LAST = {"last_observations": [[50.0], [60.0]]}
EPISODES = {name: ROWS[name] for name in ("rewards", "terminated", "truncated")}


def test_rows_by_hand():
    batch = pg.Batch.from_rollout(**ROWS, **LAST)
    assert batch.rewards.tolist() == [1, 3, 6, 7, 2, 4, 5, 8]
    assert batch.episode_lengths.tolist() == [2, 2, 3, 1]
    assert batch.terminated.tolist() == [True, False, False, False]
    # The row after the truncation holds its final observation.
    assert batch.final_observations[1:].ravel().tolist() == [50, 7, 60]
    assert batch.layout.shape == (5, 2)
    assert batch.layout.positions.tolist() == [0, 2, 6, 8, 1, 3, 5, 9]


@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_without_resets_every_row_is_a_step(autoreset):
    batch = pg.Batch.from_rollout(**(NO_RESETS | LAST | {"autoreset": autoreset}))
    assert batch.episode_lengths.tolist() == [2, 3, 3, 2]
    assert batch.final_observations[1:].ravel().tolist() == [50, 105, 60]


def test_reset_rows_may_hold_anything_but_rewards():
    resets = {(2, 0), (3, 1)}
    fields = {name: ROWS[name].astype(float) for name in ("actions",)}
    fields |= {"log_probs": np.zeros((5, 2)), "discount": np.ones((5, 2))}
    for array in fields.values():
        for place in resets:
            array[place] = np.nan
    batch = pg.Batch.from_rollout(**(ROWS | LAST | fields), extras={"teacher": fields["log_probs"]})
    assert batch.log_probs.tolist() == batch.extras["teacher"].tolist() == [0] * 8


def test_an_episode_that_ends_in_the_last_row_needs_no_reset_row():
    done = np.array([[False], [True]])
    none = np.zeros((2, 1), bool)
    rewards = {"rewards": np.ones((2, 1))}
    ended = pg.Episodes.from_rollout(**rewards, terminated=done, truncated=none)
    assert ended.final_values is None
    truncated = pg.Episodes.from_rollout(
        **rewards, terminated=none, truncated=done, last_values=[3.0]
    )
    assert truncated.final_values.tolist() == [3.0]
    both = pg.Episodes.from_rollout(**rewards, terminated=done, truncated=done)
    assert both.terminated.tolist() == [True]
    recorded = pg.Episodes.from_rollout(
        **rewards, terminated=done, truncated=none, values=np.ones((2, 1))
    )
    assert recorded.final_values.tolist() == [0.0]


def test_a_first_row_may_be_a_reset():
    episodes = pg.Episodes.from_rollout(
        rewards=[[0, 1.0], [2, 0], [3, 4]],
        terminated=[[0, 1], [0, 0], [1, 0]],
        truncated=np.zeros((3, 2)),
        last_values=[0, 7],
        previous_done=[True, False],
    )
    assert episodes.rewards.tolist() == [2, 3, 1, 4]
    assert episodes.layout.positions.tolist() == [2, 4, 1, 5]
    assert episodes.final_values.tolist() == [0, 0, 7]


def test_an_environment_may_be_nothing_but_a_reset():
    episodes = pg.Episodes.from_rollout(
        rewards=[[0, 1.0]],
        terminated=[[0, 1]],
        truncated=[[0, 0]],
        previous_done=[True, False],
    )
    assert (episodes.rewards.tolist(), episodes.layout.positions.tolist()) == ([1], [1])


def at(array, place, value):
    """Return a copy with one other entry."""
    array = np.array(array)
    array[place] = value
    return array


WRONG = {
    "a reward in a reset row": (
        ROWS | LAST | {"rewards": at(ROWS["rewards"], (2, 0), 1)},
        r"autoreset='next_step', got another reward at step 2 of environment 0; name the mode",
    ),
    "NaN in a reset row": (
        ROWS | LAST | {"rewards": at(ROWS["rewards"], (3, 1), np.nan)},
        r"got another reward at step 3 of environment 1",
    ),
    "an end in a reset row": (
        ROWS | LAST | {"terminated": at(TERMINATED, (2, 0), True)},
        r"got an end at step 2 of environment 0",
    ),
    "a reward in the first reset row": (
        ROWS | LAST | {"previous_done": [False, True]},
        r"got another reward at step 0 of environment 1",
    ),
    "another final observation": (
        ROWS | LAST | {"final_observations": OBSERVATIONS + 100},
        r"final_observations: expected the next .* got another at step 2 of environment 1; name the",
    ),
    "no last observations": (
        ROWS,
        r"expected last_observations or last_values, .* at step 4 of environment 0, got none; pass",
    ),
    "no last observations without resets": (
        NO_RESETS,
        r"expected last_observations, for the episode truncated by the rollout's end at step 4 of env",
    ),
    "no final observations": (
        {name: value for name, value in NO_RESETS.items() if name != "final_observations"} | LAST,
        r"expected final_observations, for the episode truncated at step 2 of environment 1",
    ),
    "last values alone": (
        ROWS | {"last_values": [1, 2]},
        r"expected final_values, for the episode truncated at step 2 of environment 1",
    ),
    "last values and not those inside": (
        ROWS | LAST | {"last_values": [1, 2]},
        r"expected final_values, for the episode truncated at step 2 of environment 1",
    ),
    "no row in a list": (
        NO_RESETS | LAST | {"final_observations": [None] * 5},
        r"expected a row .*, got none at step 2 of environment 1; pass info\['final_obs'\] of that step",
    ),
    "too short a list": (
        NO_RESETS | LAST | {"final_observations": [None, None, [[1.0]]]},
        r"final_observations: expected a row for each truncated episode, got none at step 2",
    ),
    "too long a list": (
        NO_RESETS | LAST | {"final_observations": [None, None, [None, [1.0]], None, None, None]},
        r"final_observations: expected at most 5 rows of 2, .* got 6 rows of at most 2; pass one",
    ),
    "too long a row": (
        NO_RESETS | LAST | {"final_observations": [None, None, [None, [1.0], None]]},
        r"final_observations: expected at most 5 rows of 2, .* got 3 rows of at most 3; pass one",
    ),
    "final observations of another shape": (
        NO_RESETS | LAST | {"final_observations": [None, None, [None, [1.0, 2.0]]]},
        r"expected final and last observations of shape \[1\] each, got \[2\]; lay all arrays",
    ),
    "one environment without its axis": (
        {name: value[:, 0] for name, value in EPISODES.items()},
        r"rewards: expected \[T, N\] numbers, got shape \[5\]; give one environment an axis",
    ),
    "no rows": (
        {name: value[:0] for name, value in EPISODES.items()},
        r"rewards: expected at least 1 step, got shape \[0, 2\]; collect some steps first",
    ),
    "resets alone": (
        {name: np.zeros((1, 2)) for name in EPISODES} | {"previous_done": [1, 1]},
        r": expected at least 1 step, got none but rows in which an environment was reset; collect",
    ),
    "the other order": (
        ROWS | LAST | {"truncated": TRUNCATED.T},
        r"truncated: expected shape \[5, 2\], got \[2, 5\]; lay all arrays out alike",
    ),
    "flags with a further axis": (
        ROWS | LAST | {"truncated": TRUNCATED[..., None]},
        r"truncated: expected shape \[5, 2\], got \[5, 2, 1\]",
    ),
    "flags that are none": (
        ROWS | LAST | {"truncated": ROWS["rewards"]},
        r"truncated: expected booleans, got dtype float64 with other values",
    ),
    "no flags": (
        ROWS | LAST | {"truncated": None},
        r"truncated: expected an array, got none; pass one",
    ),
    "extras without names": (
        ROWS | LAST | {"extras": [1]},
        r"extras: expected arrays by name, got list without names; pass a dict",
    ),
    "extras of another shape": (
        ROWS | LAST | {"extras": {"teacher": np.zeros(8)}},
        r"extras\['teacher'\]: expected shape \[5, 2, '\.\.\.'\], got \[8\]",
    ),
    "NaN": (
        ROWS | LAST | {"log_probs": at(np.zeros((5, 2)), (3, 0), np.nan)},
        r"log_probs: expected finite numbers, got NaN at step 3 of environment 0; find where",
    ),
    "infinity": (
        ROWS | LAST | {"observations": at(OBSERVATIONS, (4, 1), np.inf)},
        r"observations: expected finite numbers, got infinity at step 4 of environment 1",
    ),
    "an unknown order": (ROWS | LAST | {"order": "batch"}, r"order: expected one of 'time', 'env'"),
    "an array as the mode": (
        ROWS | LAST | {"autoreset": np.array(["next_step"])},
        r"autoreset: expected one of 'next_step', 'same_step', 'disabled', got array",
    ),
    "an unknown mode": (
        ROWS | LAST | {"autoreset": "always"},
        r"autoreset: expected one of 'next_step', 'same_step', 'disabled', got 'always'",
    ),
    "a previous end without resets": (
        NO_RESETS | LAST | {"previous_done": [True, False]},
        r"previous_done: expected none where no row is a reset, got an array; leave it out",
    ),
    "previous ends of another number": (
        ROWS | LAST | {"previous_done": [True]},
        r"previous_done: expected shape \[2\], got \[1\]",
    ),
    "last observations of another number": (
        ROWS | {"last_observations": [[1.0]]},
        r"last_observations: expected shape \[2, '\.\.\.'\], got \[1, 1\]",
    ),
}


@pytest.mark.parametrize(("fields", "words"), WRONG.values(), ids=WRONG)
def test_wrong_rollouts_are_refused(fields, words):
    kind = pg.Batch if "observations" in fields else pg.Episodes
    with pytest.raises(BatchError, match=rf"{kind.__name__}\.from_rollout.*{words}"):
        kind.from_rollout(**fields)


def test_episodes_need_values():
    with pytest.raises(
        BatchError,
        match=r"expected last_values, for the episode truncated by the rollout's end at step 4 of env",
    ):
        pg.Episodes.from_rollout(**EPISODES, values=np.zeros((5, 2)))
    with pytest.raises(
        BatchError,
        match=r"expected final_values, for the episode truncated at step 2 of environment 1",
    ):
        pg.Episodes.from_rollout(**EPISODES, last_values=[1, 2])


@pytest.mark.parametrize(
    "final_values", [np.full((5, 2), 9.0), [None, None, [None, 9.0]], [None, None, [0.0, 9]]]
)
def test_final_values_are_read_where_an_episode_was_truncated(final_values):
    for autoreset, finals in {"next_step": [0, 5, 9, 6], "same_step": [0, 5, 9, 6]}.items():
        episodes = pg.Episodes.from_rollout(
            **EPISODES, final_values=final_values, last_values=[5, 6], autoreset=autoreset
        )
        assert episodes.final_values.tolist() == finals


@pytest.mark.parametrize("autoreset", ["same_step", "disabled"])
def test_after_a_reset_the_last_values_are_the_next_episodes(autoreset):
    # The environment was reset after its last row: what `step` returned is of the new episode.
    done = np.array([[False], [True]])
    with pytest.raises(
        BatchError, match=r"expected final_values, for the episode truncated at step 1 of environ"
    ):
        pg.Episodes.from_rollout(
            rewards=np.ones((2, 1)),
            terminated=np.zeros((2, 1)),
            truncated=done,
            last_values=[3.0],
            autoreset=autoreset,
        )


def test_a_wrong_shape_is_a_shape_error():
    with pytest.raises(ShapeError):
        pg.Batch.from_rollout(**(ROWS | {"actions": np.zeros(5, int)}), **LAST)
