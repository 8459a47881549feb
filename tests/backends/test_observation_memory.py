"""Observations in any memory: the numbers are those of a plain array, and the caller's stay as they are."""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
from masked_batches import STEPS, make_batch

import pgcore as pg
from pgcore.registry.registry import registry
from pgcore_check.cases.cases import NETWORKS
from pgcore_check.proofs import variants

REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
ABSENT = {
    entry.provider.name: f"{entry.provider.name}: {entry.reason}"
    for entry in registry().providers("backends")
    if entry.status != "usable" and entry.provider.name not in REQUIRED
}
BACKENDS = ("numpy", "torch", "tensorflow", "jax")
COPIED = "pgcore_torch.policy.COPIED"  # bytes up to which PyTorch's copies
PLAIN = np.random.default_rng(0).standard_normal((STEPS, 4)).astype(np.float32)


def read_only(array):
    """Return a copy that nobody writes to."""
    array = array.copy()
    array.setflags(write=False)
    return array


def beside_others(array):
    """Return a view of columns among others."""
    wide = np.zeros((len(array), 8), np.float32)
    wide[:, 3:7] = array
    return wide[:, 3:7]


LAYOUTS = {
    "read-only": read_only,
    "by column": np.asfortranarray,
    "reversed": lambda array: array[::-1].copy()[::-1],
    "beside others": beside_others,
    "unaligned": lambda array: np.concatenate([np.zeros(1, np.float32), array.ravel()])[1:].reshape(
        array.shape
    ),
    "foreign order": lambda array: array.astype(">f4"),
}


@pytest.fixture(params=[*BACKENDS, "torch, shared"])
def policy(request, monkeypatch):
    """A policy of each backend, in its usual mode; PyTorch's copies, and shares memory."""
    backend, *shared = request.param.split(", ")
    if backend in ABSENT:
        pytest.skip(ABSENT[backend])
    spec = pg.PolicySpec(NETWORKS["tanh"], variants("heads")["categorical"], "separate")
    made = pg.policy(spec, backend=backend, seed=3, dtype="float32")
    if shared:
        monkeypatch.setattr(COPIED, 0)
    return made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_observations_may_lie_anywhere(policy, layout):
    observations = LAYOUTS[layout](PLAIN)
    before = observations.copy()
    np.testing.assert_array_equal(before, PLAIN)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        found = policy.act(observations, pg.generator(0))
        values = policy.values_at(observations)
    expected = policy.act(PLAIN, pg.generator(0))
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values, policy.values_at(PLAIN), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(observations, before)


@pytest.mark.parametrize("index", [slice(1, None), slice(None, None, 2), np.arange(STEPS)[::-3]])
def test_steps_of_a_batch_stay_as_they_are(policy, index):
    batch, estimator = make_batch(), pg.estimator("ppo")
    signals = pg.signals(policy, estimator, batch)
    before = batch.observations.copy()
    part = batch.steps(index)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        first = pg.gradient(policy, estimator, part, signals=signals.steps(index)).numpy()
    copied = batch.steps(np.arange(STEPS)[index])
    second = pg.gradient(policy, estimator, copied, signals=signals.steps(index)).numpy()
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], rtol=1e-5, atol=1e-7, err_msg=name)
    np.testing.assert_array_equal(batch.observations, before)
    np.testing.assert_array_equal(part.observations, before[index])
