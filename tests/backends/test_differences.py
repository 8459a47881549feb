"""Gradients against differences of the loss, which know no closed form: this is what an estimator's own cotangents answer to."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.interfaces.surrogate import Surrogate
from pgcore.xp.numpy import HostNamespace
from pgcore_check.cases.cases import cases
from pgcore_check.reference.differences import directional_derivative, random_direction

# A step across the kink of a relu, or of a clip, is no derivative; smooth networks and the seeds below stay away from them.
CASES = [case for case in cases(("float64",)) if "relu" not in case.label]


def slopes(case, estimator=None):
    """Return the derivative along a random direction by the gradient and by differences."""
    policy, batch = case.make("numpy")
    estimator = estimator or case.estimator
    signals = pg.signals(policy, case.estimator, batch)
    gradient = pg.gradient(policy, estimator, batch, signals=signals).numpy()
    direction = random_direction(gradient, np.random.default_rng(case.seed))
    by_gradient = sum(float((gradient[name] * direction[name]).sum()) for name in gradient)
    surrogate = Surrogate(policy.spec, estimator, batch, signals)
    return by_gradient, directional_derivative(
        policy.spec, policy.parameters(), surrogate, batch, direction
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_gradient_is_the_slope_of_the_loss(case, monkeypatch):
    held = []
    original = HostNamespace.stop_gradient
    monkeypatch.setattr(
        HostNamespace, "stop_gradient", lambda xp, x: held.append(x) or original(xp, x)
    )
    policy, batch = case.make("numpy")
    pg.gradient(policy, case.estimator, batch).terms()
    if held:
        pytest.skip("a value that is held constant moves the loss, and not its gradient")
    by_gradient, by_differences = slopes(case)
    assert by_gradient == pytest.approx(by_differences, rel=1e-8, abs=1e-9)
