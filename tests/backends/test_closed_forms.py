"""NumPy's closed forms on every estimator with every head and dtype: gradients and losses, with the power to see an error."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

import pgcore as pg
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.cases import cases
from pgcore_check.cases.kinks import worst_at
from pgcore_check.proofs import kinks
from pgcore_check.results import gradient_row, loss_row

KINKS = kinks()


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.label)
def test_gradient_and_loss_are_within_their_running_error_bounds(case):
    policy, batch = case.make("numpy", padding=7 * (case.seed % 3 == 0))
    signals = pg.signals(policy, case.estimator, batch)
    gradient = pg.gradient(policy, case.estimator, batch, signals=signals)
    found = gradient_row(policy, case.estimator, batch, signals, gradient.numpy())
    assert found.agrees, found
    # A float32 log-density of a thousand leaves its ratio four digits, and a trajectory's log ratio adds up the errors of its steps.
    of_densities = not case.spec.head.discrete or case.estimator.name == "trajectory_is"
    # Parts have options that make advantages or weights small; `pgcore check` draws such cases again.
    composed = len(case.estimator.differentiated_parts) > 1
    weak = composed or ("old_log_prob" in case.estimator.keywords and of_densities)
    if not weak or (case.dtype == "float64" and not composed):
        assert found.power > (0.5 if case.dtype == "float64" else 0.2), found
    assert loss_row(policy, case.estimator, batch, signals, gradient.loss).agrees


@pytest.mark.parametrize("kink", KINKS, ids=lambda kink: kink.name)
def test_gradient_at_a_kink_loses_nothing_to_cancellation(kink):
    # Closed forms cancel nowhere, so that nothing is allowed for it; an exponent of tens or hundreds of nats is another matter.
    exponents = kink.group == "squashed" or kink.name.startswith("gamma weight")
    kink = kink if exponents else dataclasses.replace(kink, atol=0.0)
    ratio, where = worst_at(
        kink, partial(pg.policy, backend="numpy", dtype="float64"), np.dtype(np.float64)
    )
    assert ratio <= FACTOR, where
