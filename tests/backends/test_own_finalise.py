"""Estimators of one's own that write into the dict of signals that `finalise` gets."""

from __future__ import annotations

import dataclasses
import importlib
import os
from typing import Any

import numpy as np
import pytest
from masked_batches import STEPS, make_batch

import pgcore as pg
from pgcore.data.native import arrays_of
from pgcore.registry.registry import registry
from pgcore_check.cases.cases import NETWORKS
from pgcore_check.proofs import variants
from pgcore_estimators.preset_classes import PPO

REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
ABSENT = {
    entry.provider.name: f"{entry.provider.name}: {entry.reason}"
    for entry in registry().providers("backends")
    if entry.status != "usable" and entry.provider.name not in REQUIRED
}
CONVERT = {
    "numpy": ("numpy", "asarray"),
    "torch": ("torch", "as_tensor"),
    "tensorflow": ("tensorflow", "convert_to_tensor"),
    "jax": ("jax.numpy", "asarray"),
}


@dataclasses.dataclass(frozen=True)
class Pure(PPO):
    """Doubled advantages, in a dict of its own."""

    name = "doubled, pure"
    normalise: str = "none"

    def finalise(self, signals, padding):
        """Return a new dict."""
        return signals | {"advantage": 2 * signals["advantage"]}


@dataclasses.dataclass(frozen=True)
class Writing(PPO):
    """Doubled advantages, written into the dict that came."""

    name = "doubled, in place"
    normalise: str = "none"

    def finalise(self, signals, padding):
        """Return the same dict."""
        signals["advantage"] = 2 * signals["advantage"]
        return signals


@dataclasses.dataclass(frozen=True)
class WritingThere(Writing):
    """The same on a device."""

    name = "doubled, in place there"

    def finalise_on(self, arrays, signals, real):
        """Return the same dict."""
        return self.finalise(signals, real)


@pytest.fixture(params=CONVERT)
def backend(request):
    """Each backend's name."""
    if request.param in ABSENT:
        pytest.skip(ABSENT[request.param])
    return request.param


@pytest.mark.parametrize("writing", [Writing, WritingThere])
@pytest.mark.parametrize("place", ["host", "moved", "native"])
def test_gradients_are_the_same_at_each_call(backend, place, writing, monkeypatch):
    if backend == "numpy" and place != "host":
        pytest.skip("on the host alone")
    spec = pg.PolicySpec(NETWORKS["tanh"], variants("heads")["categorical"], "separate")
    policy: Any = pg.policy(spec, backend=backend, seed=3, dtype="float32")
    policy.resident = place != "host"
    batch = make_batch()
    if place == "native":
        module, name = CONVERT[backend]
        convert = getattr(importlib.import_module(module), name)
        monkeypatch.setattr(
            type(arrays_of(convert(np.zeros(1, "f4")))), "resident", lambda *_: True
        )
        fields = {
            name: getattr(batch, name)
            for name in (*batch.per_step, *batch.per_episode)
            if getattr(batch, name) is not None
        }
        for name in ("observations", "rewards", "log_probs"):
            fields[name] = convert(np.array(fields[name], np.float32))
        batch = pg.Batch(**fields)
    index = np.arange(STEPS)[::2]
    found = []
    for estimator in (Pure(), writing()):
        signals = pg.signals(policy, estimator, batch)
        for _ in range(2):
            whole = pg.gradient(policy, estimator, batch, signals=signals)
            part = pg.gradient(policy, estimator, batch.steps(index), signals=signals.steps(index))
            found.append((whole.numpy(), part.numpy()))
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            for name, value in one.items():
                np.testing.assert_allclose(two[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("writing", [Writing, WritingThere])
def test_losses_are_the_same_at_each_call(backend, writing):
    module, name = CONVERT[backend]
    convert = getattr(importlib.import_module(module), name)
    rng = np.random.default_rng(0)

    def numbers():
        return convert(rng.standard_normal(6).astype(np.float32))

    columns = {"rewards": numbers(), "log_probs": numbers(), "values": numbers()}
    episodes = pg.Episodes(episode_lengths=[4, 2], terminated=[True, True], **columns)
    quantities = {"log_prob": numbers(), "value": numbers()}
    found = []
    for estimator in (Pure(), writing()):
        signals = pg.signals(estimator, episodes)
        found += [float(pg.loss(estimator, signals, **quantities).loss) for _ in range(2)]
    np.testing.assert_allclose(found, found[0], rtol=1e-6)
    # The doubling itself counts.
    plain = pg.estimator("ppo", normalise="none")
    loss = float(pg.loss(plain, pg.signals(plain, episodes), **quantities).loss)
    assert abs(loss - found[0]) > 1e-2
