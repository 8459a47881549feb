"""Padding repeats a step whose ratio can be too large for a float; what it repeats must not be felt, for infinity has no weight of 0."""

# pyright: standard
from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore_check.testing import parametrize_backends

__all__: list[str] = []

pytestmark = parametrize_backends()

SPEC = pg.PolicySpec(pg.Table(2), pg.Categorical(2), "separate")
PARAMETERS = {"network.table": [[0.4, -0.3], [0.1, 0.2]], "critic.table": [[5.0], [6.0]]}
FAR = {"float64": 1000.0, "float32": 100.0}  # exp of it is more than the dtype holds


@pytest.mark.parametrize("dtype", FAR)
@pytest.mark.parametrize(
    ("estimator", "before"),
    [
        # A ratio that the clip leaves out: the step's advantage is positive, and that of padding, 0 - V, is not.
        (pg.estimator("ppo", normalise="none"), 0.0),
        # An episode whose ratios make up for each other, and one whose whole ratio is tiny.
        (pg.estimator("trajectory_is"), -1.0),
        (pg.estimator("pdis"), -1.0),
        (pg.estimator("wis"), -1.0),
        (pg.estimator("wis"), -2.0),
    ],
    ids=["ppo", "trajectory_is", "pdis", "wis", "wis tiny"],
)
def test_a_ratio_that_overflows_is_not_felt_in_padding(backend, dtype, estimator, before):
    policy = pg.policy(SPEC, backend=backend, dtype=dtype)
    policy.load({name: np.array(value) for name, value in PARAMETERS.items()})
    fields = {
        "observations": [0, 1, 1, 0],
        "actions": [0, 1, 0, 1],
        "rewards": [1.0, -2.0, 0.5, 100.0],
        "episode_lengths": [2, 2],
        "terminated": [True, True],
    }
    log_prob = policy.evaluate(pg.Batch(**fields), ("log_prob",))["log_prob"]
    far = (
        np.array([before, 1.0, before, 1.0]) * FAR[dtype]
        if before
        else np.array([0.0, 0.0, 0.0, FAR[dtype]])
    )
    batch = pg.Batch(**fields, log_probs=log_prob - far)
    plain, padded = (pg.gradient(policy, estimator, steps) for steps in (batch, batch.pad(7)))
    for name, value in plain.numpy().items():
        assert np.isfinite(value).all()
        np.testing.assert_allclose(
            padded.numpy()[name], value, rtol=1e-5 if dtype == "float32" else 1e-12, atol=1e-30
        )
    assert padded.loss == pytest.approx(plain.loss, rel=1e-5 if dtype == "float32" else 1e-12)
