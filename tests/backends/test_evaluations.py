"""Evaluations that a caller passes to `pg.signals` in place of a policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from framework_arrays import ARRAYS, jax_array, torch_array

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError, ShapeError

GAMMA = 0.9
VTRACE = pg.estimator("vtrace", gamma=GAMMA)
PPO = pg.estimator("ppo", gamma=GAMMA, gae_lambda=1.0, normalise="none")
LOG_PROBS = np.array([-0.1, -2.0, -0.5])


def episodes(array: Any = np.asarray, **fields):
    """Return an episode that terminated after two steps, and one cut after one."""
    rewards = array(np.array([1.0, 2.0, 3.0], "float32"))
    ends: dict[str, Any] = {"episode_lengths": [2, 1], "terminated": [True, False]}
    return pg.Episodes(rewards=rewards, **ends, **fields)


@pytest.mark.parametrize("array", ARRAYS)
def test_no_value_follows_a_terminal_state(array):
    seen = array(np.array([[1.0, 2.0], [3.0, 4.0]], "float32"))
    batch = pg.Batch.from_replay(
        observations=array(np.eye(2, dtype="float32")),
        actions=[0, 1],
        rewards=array(np.array([1.0, 2.0], "float32")),
        terminated=[False, True],
        next_observations=array(np.eye(2, dtype="float32")),
    )
    learning = pg.estimator("q_learning", gamma=GAMMA)
    target = pg.signals(learning, batch, final_action_values=seen)["target"]
    np.testing.assert_allclose(np.asarray(target), [1.0 + GAMMA * 2.0, 2.0], rtol=1e-6)
    double = pg.estimator("q_learning", gamma=GAMMA, double=True)
    target = pg.signals(double, batch, final_action_values=-seen, target_final_action_values=seen)[
        "target"
    ]
    np.testing.assert_allclose(np.asarray(target), [1.0 + GAMMA * 1.0, 2.0], rtol=1e-6)


def test_a_terminal_states_value_may_be_nan():
    given: dict[str, Any] = {"value": np.zeros(3), "final_value": np.array([np.nan, 5.0])}
    signals = pg.signals(PPO, episodes(log_probs=LOG_PROBS), **given)
    expected = [1.0 + GAMMA * 2.0, 2.0, 3.0 + GAMMA * 5.0]
    np.testing.assert_allclose(signals["advantage"], expected)


def test_a_target_without_all_of_its_evaluations_is_refused():
    learning = pg.estimator("q_learning", gamma=GAMMA)
    given: dict[str, Any] = {
        "action_values": np.zeros((3, 2)),
        "final_action_values": np.zeros((2, 2)),
    }
    both = {f"target_{name}": value + 1 for name, value in given.items()}
    target = pg.signals(learning, episodes(), **both)["target"]
    np.testing.assert_allclose(target, [1.0 + GAMMA, 2.0, 3.0 + GAMMA])
    both.pop("target_final_action_values")
    with pytest.raises(BatchError, match="'target_final_action_values'"):
        pg.signals(learning, episodes(), **both, **given)
    recorded = episodes(values=np.zeros(3), final_values=np.zeros(2), log_probs=-np.ones(3))
    with pytest.raises(EstimatorError, match="got target_log_prob as well"):
        pg.signals(VTRACE, recorded, target_log_prob=LOG_PROBS)


@pytest.mark.parametrize("name", ["q_learning", "soft_actor", "expected"])
def test_the_evaluations_that_errors_ask_for_are_enough(name):
    """All of them may be passed for any episodes, though those of one step read fewer."""
    estimator = pg.estimator(name)
    ends: list[dict[str, Any]] = [
        {"episode_lengths": [2, 1], "terminated": [True, False]},
        {"episode_lengths": [1, 1, 1], "terminated": [True, True, True]},
        {"episode_lengths": [1, 1, 1], "terminated": [True, True, False]},
    ]
    cases = [pg.Episodes(rewards=[1.0, 2.0, 3.0], **fields) for fields in ends]

    def values_of(names, held) -> dict[str, Any]:
        rows = {name: held.num_episodes if name.startswith("final_") else 3 for name in names}
        return {name: np.log(np.full((count, 2), 0.5)) for name, count in rows.items()}

    asked: set[str] = set()
    for held in cases:
        names: set[str] = set()
        while True:
            try:
                pg.signals(estimator, held, **values_of(names, held))
                break
            except BatchError as error:
                missing = str(error).split("'")[1]
                assert missing not in names
                names.add(missing)
        asked |= names
    for held in cases:
        pg.signals(estimator, held, **values_of(asked, held))


def test_a_distribution_may_be_given():
    exact = pg.estimator("ppo", objective="kl", normalise="none")
    recorded = episodes(values=np.zeros(3), final_values=np.zeros(2), log_probs=-np.ones(3))
    old = np.log(np.full((3, 2), 0.5))
    signals = pg.signals(exact, recorded, distribution=old)
    np.testing.assert_array_equal(signals["reference"], old)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"value": np.zeros((3, 1))}, r"value: expected shape \[3\], as .* got \[3, 1\]"),
        ({"value": np.zeros(2)}, r"value: expected shape \[3\], as .* got \[2\]"),
        (
            {"final_value": np.zeros((2, 1))},
            r"final_value: expected shape \[2\], one row .* \[2, 1\]",
        ),
        ({"final_action_values": np.zeros(2)}, r"expected shape \[2, A\], one row .* got \[2\]"),
        ({"action_values": np.zeros(3)}, r"expected shape \[3, A\], as the .* got \[3\]"),
    ],
)
def test_evaluations_of_another_shape_are_refused(given, words):
    with pytest.raises(ShapeError, match=words):
        pg.signals(PPO, episodes(log_probs=LOG_PROBS), **given)


def test_transitions_need_no_values_where_evaluations_follow():
    replay = pg.Episodes.from_replay(rewards=[1.0, 2.0], terminated=[False, True])
    learning = pg.estimator("q_learning", gamma=GAMMA)
    following = np.array([[3.0, 5.0], [7.0, 9.0]])
    signals = pg.signals(learning, replay, target_final_action_values=following)
    np.testing.assert_allclose(signals["target"], [1.0 + GAMMA * 5.0, 2.0])


def test_an_unknown_evaluation_is_refused():
    with pytest.raises(EstimatorError, match=r"expected names among log_prob, .* got 'values'"):
        pg.signals(PPO, episodes(log_probs=LOG_PROBS), values=np.zeros(3))


def test_an_evaluation_that_is_not_read_is_refused():
    recorded = episodes(values=np.zeros(3), final_values=np.zeros(2), log_probs=-np.ones(3))
    pg.signals(VTRACE, recorded, log_prob=LOG_PROBS)
    with pytest.raises(EstimatorError, match=r"vtrace .* from \(log_prob\), got log_probs as well"):
        pg.signals(VTRACE, recorded, log_prob=LOG_PROBS, log_probs=np.zeros((3, 2)))
    with pytest.raises(EstimatorError, match="got value as well; `values` of the episodes stand"):
        pg.signals(PPO, recorded, value=np.ones(3))


def test_final_evaluations_may_be_unread_where_all_terminated():
    ends: dict[str, Any] = {"episode_lengths": [2], "terminated": [True]}
    whole = pg.Episodes(
        rewards=[1.0, 2.0], **ends, values=np.zeros(2), final_values=[0.0], log_probs=np.zeros(2)
    )
    assert pg.signals(PPO, whole, final_value=np.ones(1))["advantage"].tolist() == [2.8, 2.0]


def test_arrays_of_two_frameworks_are_refused():
    theirs = torch_array(LOG_PROBS), jax_array(LOG_PROBS)
    with pytest.raises(
        BatchError, match=r"Episodes log_probs: .* of torch, as rewards is, .* of jax"
    ):
        episodes(torch_array, log_probs=theirs[1])
    with pytest.raises(BatchError, match=r"Episodes.from_steps extras\['x'\]: .* of jax"):
        pg.Episodes.from_steps(
            rewards=theirs[0], terminated=[False, False, True], extras={"x": theirs[1]}
        )
    given: dict[str, Any] = {"value": np.zeros(3), "final_value": np.zeros(2)}
    with pytest.raises(EstimatorError, match=r"signals log_prob: .* of torch, .* one of jax"):
        pg.signals(VTRACE, episodes(torch_array), log_prob=theirs[1], **given)
    # NumPy's arrays are anybody's.
    pg.signals(VTRACE, episodes(torch_array), log_prob=LOG_PROBS, **given)


def test_a_loss_mask_that_would_not_be_read_is_refused():
    fields: dict[str, Any] = {"rewards": [1.0, 0.0], "mask": np.ones((2, 2), bool)}
    fields |= {"group": [0, 0], "log_probs": np.full((2, 2), -1.0)}
    masked = pg.Episodes.from_padded(**fields, loss_mask=[[True, False], [True, True]])
    grpo = pg.estimator("grpo")
    with pytest.raises(
        EstimatorError,
        match=r"grpo: .* leaves out step 1, .* 'loss_mask' is False, got one that counts",
    ):
        pg.signals(grpo, masked)
    # Its baseline reads the mask for whole answers, and its loss counts every step.
    reader = pg.estimator("grpo", count_masked=False)
    with pytest.raises(EstimatorError, match=r"grpo: .* leaves out step 1"):
        pg.signals(reader, masked)
    none = pg.Episodes.from_padded(**fields, loss_mask=[[False, False], [True, True]])
    assert not pg.signals(reader, none)["advantage"][0].any()
    # All steps count either way.
    pg.signals(grpo, pg.Episodes.from_padded(**fields, loss_mask=np.ones((2, 2), bool)))
    composed = pg.estimator(
        "policy_gradient", advantage="group_relative", mask="loss", reduction="step"
    )
    slopes = pg.loss(composed, pg.signals(composed, masked), log_prob=np.full((2, 2), -1.0))
    assert (slopes.derivatives["log_prob"] != 0).tolist() == [[True, False], [True, True]]


def test_numbers_that_are_no_floats_have_float_derivatives():
    signals = pg.signals(
        PPO, episodes(log_probs=LOG_PROBS), value=np.zeros(3), final_value=np.ones(2)
    )
    found = pg.loss(PPO, signals, log_prob=LOG_PROBS, value=np.zeros(3, np.int64))
    expected = pg.loss(PPO, signals, log_prob=LOG_PROBS, value=np.zeros(3))
    np.testing.assert_array_equal(found.derivatives["value"], expected.derivatives["value"])
    assert found.derivatives["value"].all()


def test_signals_of_inference_mode_serve_a_loss():
    torch = pytest.importorskip("torch")
    with torch.inference_mode():
        held = episodes(torch.tensor, log_probs=torch.tensor(LOG_PROBS))
        signals = pg.signals(PPO, held, value=torch.zeros(3), final_value=torch.ones(2))
    given = {name: torch.zeros(3, requires_grad=True) for name in ("log_prob", "value")}
    pg.loss(PPO, signals, **given).loss.backward()
    assert given["value"].grad.all()
