# Arguments of the wrong kind, and layouts that are there, are the subject of these tests.
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, ShapeError

# Three answers: padding on the right, a tool's token inside, padding on the left.
MASK = np.array([[1, 1, 0, 0], [1, 0, 1, 1], [0, 0, 0, 1]], bool)
EVERYWHERE = np.arange(12.0).reshape(3, 4)
STEPS = [0, 1, 4, 6, 7, 11]


def holed(array=EVERYWHERE, junk=np.nan):
    """Return the array with junk where the mask is False."""
    return np.where(MASK, array, junk)


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 1e300])
def test_whatever_stands_outside_the_mask_is_no_step(junk):
    names = ("rewards", "log_probs", "rollout_log_probs", "reference_log_probs", "values")
    arrays = {name: holed(EVERYWHERE + i, junk) for i, name in enumerate(names)}
    episodes = pg.Episodes.from_padded(
        **arrays,
        discount=holed(np.full((3, 4), 0.5), junk),
        mask=MASK,
        extras={"teacher": holed(EVERYWHERE, junk), "pairs": np.stack([holed(junk=junk)] * 2, -1)},
    )
    for i, name in enumerate(names):
        array = getattr(episodes, name) if hasattr(episodes, name) else episodes.extras[name]
        assert array.tolist() == [step + i for step in STEPS], name
    assert episodes.discount.tolist() == [0.5] * 6
    assert episodes.extras["pairs"].tolist() == [[step, step] for step in STEPS]
    assert episodes.episode_lengths.tolist() == [2, 3, 1]
    assert episodes.terminated.all()
    assert episodes.final_values.tolist() == [0] * 3


def test_returns_run_over_the_steps_alone():
    episodes = pg.Episodes.from_padded(rewards=[1.0, 2.0, 4.0], mask=MASK)
    by_hand = pg.Episodes(
        rewards=[0, 1, 0, 0, 2, 4], episode_lengths=[2, 3, 1], terminated=[True] * 3
    )
    assert episodes.rewards.tolist() == by_hand.rewards.tolist()
    assert episodes.step_in_episode.tolist() == by_hand.step_in_episode.tolist()


def test_a_reward_of_an_answer_is_its_last_steps():
    for rewards in ([1.0, 2.0, 4.0], [1, 2, 4], np.float32([1, 2, 4])):
        episodes = pg.Episodes.from_padded(rewards=rewards, mask=MASK)
        assert episodes.rewards.tolist() == [0, 1, 0, 0, 2, 4]
        laid_out = [[0, 1, 0, 0], [0, 0, 0, 2], [0, 0, 0, 4]]
        assert episodes.layout.spread(episodes.rewards).tolist() == laid_out


def test_the_layout_is_the_masks():
    episodes = pg.Episodes.from_padded(rewards=EVERYWHERE, mask=MASK)
    assert episodes.layout.shape == (3, 4)
    assert episodes.layout.positions.tolist() == STEPS
    np.testing.assert_array_equal(episodes.layout.steps, MASK)
    np.testing.assert_array_equal(episodes.layout.flat(EVERYWHERE), episodes.rewards)


def test_groups_and_truncated_answers_are_of_rows():
    episodes = pg.Episodes.from_padded(
        rewards=EVERYWHERE,
        mask=MASK.astype(int),
        group=[7, 7, -1],
        truncated=[False, True, False],
        values=EVERYWHERE,
        final_values=[1, 2, 3],
        loss_mask=at(MASK, (1, 2), value=False),
        log_probs=at(EVERYWHERE, (1, 2), value=np.nan),
    )
    assert episodes.extras["group"].tolist() == [7, 7, 7, 7, 7, -1]
    assert episodes.terminated.tolist() == [True, False, True]
    assert episodes.final_values.tolist() == [0, 2, 0]
    assert episodes.loss_mask.tolist() == [True, True, True, False, True, True]


def test_a_batch_has_observations_and_actions():
    batch = pg.Batch.from_padded(
        observations=holed()[..., None] * np.ones(2),
        actions=np.where(MASK, 1, -5),
        rewards=[1, 2, 3],
        mask=MASK,
        truncated=[0, 0, 1],
        final_observations=[[np.nan] * 2, [0, 0], [8, 9]],
        action_mask=np.broadcast_to([True, True, False], (3, 4, 3)),
    )
    assert batch.observations[:, 0].tolist() == STEPS
    assert batch.actions.tolist() == [1] * 6
    assert batch.next_observations[-1].tolist() == [8, 9]
    assert batch.action_mask.shape == (6, 3)


def test_group_advantages_of_answers_come_back_in_their_layout():
    batch = pg.Batch.from_padded(
        observations=np.zeros((3, 4), int),
        actions=np.zeros((3, 4), int),
        rewards=[1.0, 3.0, 5.0],
        mask=MASK,
        group=[0, 0, 0],
        log_probs=holed(-np.ones((3, 4))),
    )
    policy = pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2)))
    signals = pg.signals(policy, pg.estimator("grpo"), batch)
    advantage = batch.layout.spread(signals["advantage"])
    # Rewards 1, 3 and 5 are a standard deviation apart.
    np.testing.assert_array_equal(advantage, MASK * [[-1.0], [0.0], [1.0]])


def at(array, place, value):
    """Return a copy with one other entry."""
    array = np.array(array)
    array[place] = value
    return array


FIELDS = {"rewards": EVERYWHERE, "mask": MASK}
WRONG = {
    "an empty answer": (
        {"mask": MASK & np.array([[1], [0], [1]], bool)},
        BatchError,
        r" mask: expected at least 1 step in every row, got none in row 1; leave that row out",
    ),
    "no answers": (
        {"mask": MASK[:0]},
        BatchError,
        r" mask: expected at least 1 step, got shape \[0, 4\]; collect some steps first",
    ),
    "no mask": ({"mask": None}, BatchError, r" mask: expected an array, got none; pass one"),
    "a flat mask": ({"mask": MASK[0]}, ShapeError, r" mask: expected a 2-dimensional array, got"),
    "a mask of numbers": (
        {"mask": EVERYWHERE},
        BatchError,
        r" mask: expected booleans, got dtype float64 with other values than 0 and 1; compare",
    ),
    "rewards of another shape": (
        {"rewards": EVERYWHERE.T},
        ShapeError,
        r" rewards: expected shape \[3, 4\] as the mask's, or \[3\], a reward for each row, got \[4, 3\]",
    ),
    "rewards with a further axis": (
        {"rewards": EVERYWHERE[..., None]},
        ShapeError,
        r" rewards: expected shape \[3, 4\] as the mask's, .*, got \[3, 4, 1\]",
    ),
    "another shape": (
        {"log_probs": EVERYWHERE[:, :3]},
        ShapeError,
        r" log_probs: expected shape \[3, 4, '\.\.\.'\], got \[3, 3\]; lay all arrays out alike",
    ),
    "NaN in a step": (
        {"rewards": at(EVERYWHERE, (1, 2), np.nan)},
        BatchError,
        r" rewards: expected finite numbers, got NaN at step 2 of episode 1; find where it came",
    ),
    "an infinite answer": (
        {"rewards": [1, np.inf, 2]},
        BatchError,
        r" rewards: expected finite numbers, got infinity at step 3 of episode 1",
    ),
    "NaN in a log-probability": (
        {"log_probs": at(EVERYWHERE, (2, 3), np.nan), "loss_mask": MASK},
        BatchError,
        r" log_probs: expected finite numbers, got NaN at step 3 of episode 2",
    ),
    "a group that is no number": (
        {"group": [0.5, 1, 2]},
        BatchError,
        r" group: expected \[E\] integers, got float64 of shape \[3\]; number the prompts",
    ),
    "a group of another length": (
        {"group": [1, 2]},
        ShapeError,
        r" group: expected shape \[3, '\.\.\.'\], got \[2\]",
    ),
    "a group of tokens": (
        {"group": np.zeros((3, 4), int)},
        BatchError,
        r" group: expected \[E\] integers, got int64 of shape \[3, 4\]",
    ),
    "a group twice": (
        {"group": [0, 0, 0], "extras": {"group": np.zeros((3, 4), int)}},
        BatchError,
        r" group: expected it once, got it as an argument and among extras; leave one out",
    ),
    "truncated tokens": (
        {"truncated": MASK},
        ShapeError,
        r" truncated: expected shape \[3\], got \[3, 4\]",
    ),
    "final values of another length": (
        {"final_values": [1, 2], "values": EVERYWHERE},
        ShapeError,
        r"\.final_values: expected 3 rows, one for each episode",
    ),
    "words": (
        {"log_probs": [["a"] * 4] * 3},
        BatchError,
        r" log_probs: expected real numbers, got dtype <U1; convert the array first",
    ),
    "a loss mask of two axes too many": (
        {"loss_mask": np.ones((3, 4, 2))},
        ShapeError,
        r"Episodes\.extras\['loss_mask'\]: expected a 1-dimensional array",
    ),
}


@pytest.mark.parametrize(("fields", "error", "words"), WRONG.values(), ids=WRONG)
def test_wrong_rows_are_refused(fields, error, words):
    with pytest.raises(error, match=words) as caught:
        pg.Episodes.from_padded(**(FIELDS | fields))
    assert type(caught.value) is error
