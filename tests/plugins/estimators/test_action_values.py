"""Action values that a batch brings along."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError, ShapeError
from pgcore.interfaces.signals import Signals

each_estimator = pytest.mark.parametrize("name", ["expected", "soft_actor"])


def signals(name: str, action_values) -> Signals:
    rng = np.random.default_rng(0)
    batch = pg.Batch(
        observations=rng.normal(size=(5, 2)),
        actions=rng.integers(0, 3, 5),
        rewards=rng.normal(size=5),
        episode_lengths=[2, 3],
        terminated=[True, True],
        extras={"action_values": action_values},
    )
    policy = pg.policy(
        pg.PolicySpec(pg.Linear(2), pg.Categorical(3)), backend="numpy", dtype="float64"
    )
    return pg.signals(policy, pg.estimator(name, value_coefficient=0.0), batch)


@each_estimator
def test_they_are_held_constant(name):
    given = np.random.default_rng(1).normal(size=(5, 3))
    np.testing.assert_array_equal(signals(name, given).values["q"], given)


@each_estimator
@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_width_that_is_not_the_number_of_actions_is_refused(name, width):
    with pytest.raises(
        ShapeError, match=rf"extras\['action_values'\]: expected \[B, 3\].*got \[5, {width}\]"
    ):
        signals(name, np.zeros((5, width)))


@each_estimator
@pytest.mark.parametrize("given", [np.zeros(5), np.zeros((5, 3, 1)), np.zeros((5, 3), np.int64)])
def test_others_than_a_row_of_floats_are_refused(name, given):
    with pytest.raises(BatchError, match=r"extras\['action_values'\]: expected \[B, 3\] floats, Q"):
        signals(name, given)


@pytest.mark.parametrize("name", ["expected", "soft_actor", "q_learning"])
@pytest.mark.parametrize("actions", [2, 4])
def test_a_target_policy_of_other_actions_is_refused(name, actions):
    """A value of an action that the policy does not have would be the best one."""
    policy, target = (
        pg.policy(
            pg.PolicySpec(pg.Linear(2), pg.Categorical(n), "separate", "action"), backend="numpy"
        )
        for n in (3, actions)
    )
    batch = pg.Batch(
        observations=np.ones((2, 2)),
        actions=[0, 1],
        rewards=[1.0, 2.0],
        episode_lengths=[2],
        terminated=[True],
    )
    with pytest.raises(
        EstimatorError,
        match=rf"signals target: expected .* as many actions as .*n=3.* got .*n={actions}",
    ):
        pg.signals(policy, pg.estimator(name), batch, target=target)


@pytest.mark.parametrize("name", ["expected", "soft_actor", "q_learning"])
def test_targets_of_single_steps_are_those_of_the_episodes_they_come_from(name):
    """What follows a step is found in the episode, or in the final observation where the step is an episode of its own."""
    rng = np.random.default_rng(2)
    batch = pg.Batch(
        observations=rng.normal(size=(7, 2)),
        actions=rng.integers(0, 3, 7),
        rewards=rng.normal(size=7),
        episode_lengths=[3, 1, 3],
        terminated=[True, False, False],
        final_observations=rng.normal(size=(3, 2)),
    )
    spec = pg.PolicySpec(pg.Linear(2), pg.Categorical(3), "separate", "action")
    policy, target = (
        pg.policy(spec, backend="numpy", seed=seed, dtype="float64") for seed in (0, 1)
    )
    estimator, index = pg.estimator(name), [6, 0, 2, 3, 3, 5]
    whole = pg.signals(policy, estimator, batch, target=target).values["target"]
    found = pg.signals(policy, estimator, batch.steps(index), target=target).values["target"]
    np.testing.assert_allclose(found, whole[index], rtol=1e-13)
    assert len(set(whole)) == 7
