"""Action values that a batch brings along."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, ShapeError
from pgcore.surrogate import Signals

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
    policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(3)), backend="numpy", dtype="float64")
    return pg.signals(policy, pg.estimator(name, value_coefficient=0.0), batch)


@each_estimator
def test_they_are_held_constant(name):
    given = np.random.default_rng(1).normal(size=(5, 3))
    np.testing.assert_array_equal(signals(name, given).values["q"], given)


@each_estimator
@pytest.mark.parametrize("width", [1, 2, 4])
def test_a_width_that_is_not_the_number_of_actions_is_refused(name, width):
    with pytest.raises(ShapeError, match=rf"extras\['action_values'\]: expected \[B, 3\].*got \[5, {width}\]"):
        signals(name, np.zeros((5, width)))


@each_estimator
@pytest.mark.parametrize("given", [np.zeros(5), np.zeros((5, 3, 1)), np.zeros((5, 3), np.int64)])
def test_others_than_a_row_of_floats_are_refused(name, given):
    with pytest.raises(BatchError, match=r"extras\['action_values'\]: expected floats \[B, A\]"):
        signals(name, given)
