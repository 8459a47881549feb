"""Batches of any size."""

# pyright: standard
from __future__ import annotations

import functools

import numpy as np
import pytest

import pgcore as pg
from pgcore_check.cases.cases import NETWORKS
from pgcore_check.compare import row_of
from pgcore_check.proofs import first_formula
from pgcore_check.results import gradient_row
from pgcore_check.stages.truth import Truth
from pgcore_check.suite.material import ESTIMATORS, HEADS
from pgcore_check.testing import parametrize_backends

__all__: list[str] = []

pytestmark = parametrize_backends()


LONG = pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "shared")


@functools.cache
def truth_of_many_steps(name, dtype):
    """Return the reference of a hundred thousand steps, which takes longer than a backend."""
    steps, rng = 100_000, np.random.default_rng(70)
    batch = pg.Batch(
        observations=rng.standard_normal((steps, 4)),
        actions=rng.integers(0, 3, steps),
        rewards=rng.standard_normal(steps),
        episode_lengths=np.full(500, 200),
        terminated=np.arange(500) % 2 == 0,
        final_observations=rng.standard_normal((500, 4)),
        log_probs=np.log(1 / 3) + 0.3 * rng.standard_normal(steps),
        extras={"group": np.repeat(np.arange(50), 2000)},
    )
    policy = pg.policy(LONG, backend="numpy", seed=70, dtype=dtype)
    truth = Truth(LONG, policy.parameters(), ESTIMATORS[name], batch, first_formula())
    truth.shared_signals = pg.signals(policy, ESTIMATORS[name], batch)
    return truth


@pytest.mark.pgcore_slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("gae", "float64"), ("gae", "float32"), ("ppo", "float32"), ("gspo", "float64")],
)
def test_a_hundred_thousand_steps(backend, name, dtype):
    truth = truth_of_many_steps(name, dtype)
    estimator, batch, shared = ESTIMATORS[name], truth.batch, truth.shared_signals
    policy = pg.policy(LONG, backend=backend, seed=70, dtype=dtype)
    signals = pg.signals(policy, estimator, batch)
    tolerance = 1e-10 if dtype == "float64" else 1e-3
    for key, value in signals.values.items():
        np.testing.assert_allclose(value, shared[key], rtol=tolerance, atol=tolerance, err_msg=key)
    gradient = pg.gradient(policy, estimator, batch, signals=shared).numpy()
    row = row_of(backend, "gradient", gradient, truth.gradient, truth.dtype)
    assert row.agrees, row


def test_one_episode_of_one_step(backend):
    spec = pg.PolicySpec(NETWORKS["linear"], HEADS["shared"], "separate")
    policy = pg.policy(spec, backend=backend, seed=71, dtype="float64")
    batch = pg.Batch(
        observations=[[0.5, -1.0, 2.0, 0.25]],
        actions=[[0.3, -0.7]],
        rewards=[1.5],
        episode_lengths=[1],
        terminated=[False],
        final_observations=[[1.0, 0.0, 0.0, -1.0]],
        values=[0.25],
    )
    for name in ("value baseline", "gae", "ppo value clip"):
        signals = pg.signals(policy, ESTIMATORS[name], batch)
        gradient = pg.gradient(policy, ESTIMATORS[name], batch, signals=signals)
        assert gradient_row(policy, ESTIMATORS[name], batch, signals, gradient.numpy()).agrees
