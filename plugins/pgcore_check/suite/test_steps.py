"""Optimizer steps on every backend: one whose results are not finite leaves parameters and slots as they were."""

# pyright: standard
from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import NonFiniteError
from pgcore.interfaces.optimizer import Optimizer
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.suite.material import FIRST_ORDER, HEADS, flat
from pgcore_check.testing import parametrize_backends

__all__: list[str] = []

pytestmark = parametrize_backends()

# A rate and a factor of the gradient at which every formula overflows, float64 included.
RATE, FACTOR = 1e308, 1e3


def make(backend, dtype="float32"):
    """Return a policy and its gradient."""
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "separate")
    policy, batch = make_case(spec, backend, dtype, 5, 20, 3)
    return policy, pg.gradient(policy, pg.estimator("reinforce"), batch)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("label", FIRST_ORDER)
def test_a_step_that_overflows_changes_nothing(backend, label, dtype):
    (policy, gradient), rule = make(backend, dtype), FIRST_ORDER[label]
    optimizer = Optimizer(rule)
    optimizer.step(policy, gradient)
    before, slots = flat(policy.parameters()), optimizer.state(policy)

    optimizer.spec = dataclasses.replace(rule, learning_rate=RATE, max_grad_norm=None)
    name = r"(network|critic|head)\.\S+; parameters and optimizer are unchanged"
    with pytest.raises(NonFiniteError, match=rf"^Optimizer\.step: .* NaN or infinity in {name}"):
        optimizer.step(policy, gradient.scaled(FACTOR))
    np.testing.assert_array_equal(flat(policy.parameters()), before)
    for slot, value in optimizer.state(policy).items():
        np.testing.assert_array_equal(value, slots[slot], err_msg=slot)
    assert optimizer.steps_taken == 1

    # The next step is that of an optimizer that never tried.
    optimizer.spec = rule
    optimizer.step(policy, gradient)
    other, gradient = make(backend, dtype)
    untried = Optimizer(rule)
    for _ in range(2):
        untried.step(other, gradient)
    np.testing.assert_array_equal(flat(policy.parameters()), flat(other.parameters()))


def test_a_slot_that_overflows_is_named(backend):
    policy, gradient = make(backend)
    before, optimizer = flat(policy.parameters()), pg.optimizer("adam", learning_rate=1e-3)
    with pytest.raises(
        NonFiniteError, match=r"infinity in the second_moment of network\.0\.weight"
    ):
        optimizer.step(policy, gradient.scaled(1e25))
    np.testing.assert_array_equal(flat(policy.parameters()), before)
    assert not any(value.any() for value in optimizer.state(policy).values())


def test_large_finite_results_are_taken(backend):
    policy, gradient = make(backend)
    # Squares and sums of such parameters overflow, and the parameters do not.
    pg.optimizer("sgd", learning_rate=1.0).step(policy, gradient.scaled(1e37))
    parameters = flat(policy.parameters())
    assert np.isfinite(parameters).all()
    assert np.abs(parameters).max() > 1e30
