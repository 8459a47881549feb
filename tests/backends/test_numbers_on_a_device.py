"""Numbers on a device that no loss shows: the error comes where the next number is read, and names them.

The host stands in for the device.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from framework_arrays import FRAMEWORKS

import pgcore as pg
from pgcore.data.native import arrays_of
from pgcore.errors import BatchError, NonFiniteError

LINEAR = pg.PolicySpec(pg.Linear(2), pg.Categorical(3), "separate")
STATES = pg.PolicySpec(pg.Table(5), pg.EpsilonGreedy(3), "none")
REINFORCE = pg.estimator("reinforce", gamma=1.0)


@pytest.fixture(params=FRAMEWORKS)
def device(request, monkeypatch):
    """Return a maker of policies, and one of the framework's arrays, on what counts as a device."""
    name = request.param

    def native(values, dtype="float32"):
        return FRAMEWORKS[name](np.asarray(values, dtype))

    arrays: Any = type(arrays_of(native([1.0])))
    monkeypatch.setattr(arrays, "resident", lambda *_: True)

    def policy_of(spec):
        policy: Any = pg.policy(spec, backend=name, seed=0)
        policy.resident = True
        return policy

    return policy_of, native


def batch_of(native, **fields):
    steps = {
        "observations": native(np.eye(3, 2)),
        "actions": native([0, 1, 2], "int32"),
        "rewards": native([1.0, 2.0, 3.0]),
        "episode_lengths": [3],
        "terminated": [True],
    }
    return pg.Batch(**(steps | fields))


def loss_of(policy, estimator, batch):
    """Return the loss, which is read from the device."""
    signals = pg.signals(policy, estimator, batch)
    return pg.gradient(policy, estimator, batch, signals=signals).loss


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        (
            "discount",
            [1.5, -2.0, 1.0],
            r"discount: expected numbers in \[0, 1\], got 1.5 at step 0",
        ),
        ("log_probs", [-1.0, np.inf, -1.0], r"log_probs: .* got infinity at step 1"),
        ("log_probs", [-1.0, -1.0, -np.inf], r"log_probs: .* got infinity at step 2"),
        ("values", [0.0, np.nan, 0.0], r"values: .* got NaN at step 1"),
        ("rewards", [0.0, np.inf, 0.0], r"rewards: .* got infinity at step 1"),
        ("action_mask", np.full((3, 3), 2.0), "action_mask: expected booleans"),
        ("action_mask", np.full((3, 3), np.nan), r"action_mask: expected (booleans|finite)"),
    ],
)
@pytest.mark.parametrize("estimator", [REINFORCE, pg.estimator("ppo")], ids=str)
def test_numbers_that_the_host_refuses_are_told(device, estimator, name, values, words):
    policy_of, native = device
    with pytest.raises(BatchError, match=rf"Batch\.{words}"):
        loss_of(policy_of(LINEAR), estimator, batch_of(native, **{name: native(values)}))


def test_numbers_that_the_host_takes_are_taken(device):
    policy_of, native = device
    sound = {"discount": native([0.0, 1.0, 0.5]), "action_mask": native(np.ones((3, 3)))}
    sound |= {"log_probs": native([-1.0, np.nan, -1.0])}
    extras = {"loss_mask": [True, False, True]}
    estimator = pg.estimator(
        "policy_gradient", advantage="returns", objective="clip", mask="loss", critic=None
    )
    assert np.isfinite(
        loss_of(policy_of(LINEAR), estimator, batch_of(native, **sound, extras=extras))
    )


def test_weights_below_0_are_told(device):
    policy_of, native = device
    batch = pg.Batch.from_replay(
        observations=native(np.eye(2)),
        actions=native([0, 1], "int32"),
        rewards=native([1.0, 1.0]),
        terminated=[True, True],
        weights=native([-1.0, 1.0]),
    )
    estimator = pg.estimator("reinforce", reduction=pg.WeightedSteps())
    with pytest.raises(BatchError, match=r"extras\['weights'\]: .* got -1.0 at step 0"):
        loss_of(policy_of(LINEAR), estimator, batch)


def test_states_that_follow_and_are_out_of_range_are_told(device):
    policy_of, native = device
    batch = pg.Batch.from_replay(
        observations=native([0, 1, 2], "int32"),
        actions=native([0, 1, 2], "int32"),
        rewards=native([1.0, 1.0, 1.0]),
        next_observations=native([1, 99, 3], "int32"),
        terminated=[False] * 3,
    )
    with pytest.raises(BatchError, match=r"expected states in \[0, 5\), got 99 at step 1"):
        loss_of(policy_of(STATES), pg.estimator("q_learning"), batch)


def test_acting_on_what_is_no_state_or_no_mask_is_told(device):
    policy_of, native = device
    policy = policy_of(STATES)
    policy.act(native([0, 99], "int32"), pg.generator(0))
    with pytest.raises(BatchError, match=r"observations: expected states in \[0, 5\), got 99"):
        policy.parameters()
    policy, halves = policy_of(LINEAR), native(np.full((2, 3), 0.5))
    policy.act(native(np.eye(2)), pg.generator(0), action_mask=halves)
    with pytest.raises(BatchError, match="action_mask: expected booleans"):
        policy.parameters()


def test_a_checkpoint_of_an_optimizer_counts_no_step_that_is_left_out(device):
    policy_of, native = device
    policy, optimizer = policy_of(LINEAR), pg.optimizer("adam", learning_rate=0.1)
    gradient = pg.gradient(policy, REINFORCE, batch_of(native))
    optimizer.step(policy, gradient)
    optimizer.step(policy, gradient.times(float("inf")))
    with pytest.raises(NonFiniteError, match="step 2 of the last 2"):
        optimizer.state(policy)
    assert optimizer.state(policy).keys()
    assert optimizer.steps_taken == 1


def test_a_step_that_is_left_out_does_not_count(device):
    """Adam corrects by the number of steps, of which the device knows nothing."""
    policy_of, native = device
    policies, taken = [policy_of(LINEAR) for _ in range(2)], []
    for policy, bad in zip(policies, (0, 3), strict=True):
        optimizer = pg.optimizer("adam", learning_rate=0.1)
        gradient = pg.gradient(policy, REINFORCE, batch_of(native))
        for _ in range(bad):
            optimizer.step(policy, gradient.times(float("inf")))
        if bad:
            with pytest.raises(NonFiniteError, match="step 1 of the last 3"):
                policy.parameters()
            assert optimizer.steps_taken == 0
        for _ in range(2):
            optimizer.step(policy, gradient)
        taken.append(optimizer.steps_taken)
    assert taken == [2, 2]
    for name, value in policies[0].parameters().items():
        np.testing.assert_array_equal(policies[1].parameters()[name], value)
