"""The subgradients that `pgcore.namespace.ArrayNamespace` gives, at ties: in every framework as in NumPy's derived derivatives."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import pgcore as pg
from pgcore.surrogate import Signals

# By name: the surrogate at x = 0, and its derivative in x there.
TIES = {
    "maximum, first": (lambda xp, x: xp.maximum(3.0 * x, 2.0 * x), 3.0),
    "maximum, second": (lambda xp, x: xp.maximum(2.0 * x, 3.0 * x), 2.0),
    "minimum, first": (lambda xp, x: xp.minimum(3.0 * x, 2.0 * x), 3.0),
    "minimum, second": (lambda xp, x: xp.minimum(2.0 * x, 3.0 * x), 2.0),
    "abs": (lambda xp, x: xp.abs(x), 0.0),
    "clip, numbers, low": (lambda xp, x: xp.clip(x, 0.0, 1.0), 1.0),
    "clip, numbers, high": (lambda xp, x: xp.clip(x, -1.0, 0.0), 1.0),
    "clip, arrays, low": (lambda xp, x: xp.clip(x, xp.full_like(x, 0.0), xp.full_like(x, 1.0)), 1.0),
    "clip, arrays, high": (lambda xp, x: xp.clip(x, xp.full_like(x, -1.0), xp.full_like(x, 0.0)), 1.0),
    "clip, arrays, both": (lambda xp, x: xp.clip(x, xp.full_like(x, 0.0), xp.full_like(x, 0.0)), 1.0),
}


@dataclasses.dataclass(frozen=True)
class Tied(pg.Estimator):
    """A surrogate whose argument is exactly 0."""

    tie: str
    name = "tied"

    @property
    def claims(self):
        return pg.Claims(unbiased=False, off_policy="limited", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"old_log_prob": evaluate("log_prob")["log_prob"]}

    def surrogate(self, xp, *, log_prob, old_log_prob):
        return TIES[self.tie][0](xp, log_prob - old_log_prob)


def slope_at(backend, tie, dtype="float64", estimator=Tied):
    """Return the surrogate's derivative in log pi that a backend finds, from a fair coin's logits."""
    policy = pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2)), backend=backend, dtype=dtype)
    policy.load({"network.table": np.zeros((1, 2))})
    batch = pg.Batch(observations=[0], actions=[0], rewards=[0.0], episode_lengths=[1], terminated=[True])
    old = policy.evaluate(batch, ("log_prob",))["log_prob"].astype(dtype)
    signals = Signals({"old_log_prob": old}, np.ones(1, dtype), padded=False)
    found = pg.gradient(policy, estimator(tie), batch, signals=signals).numpy()["network.table"]
    assert found.dtype == dtype
    return found[0] / np.array([0.5, -0.5], dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("tie", TIES)
def test_a_tie_has_the_subgradient_that_the_namespace_gives(backend, tie, dtype):
    np.testing.assert_allclose(slope_at(backend, tie, dtype), TIES[tie][1], rtol=4 * np.finfo(dtype).eps)


def split_maximum(monkeypatch, framework):
    """Let the framework's own maximum decide, which splits the gradient, or gives it to the second."""
    module = pytest.importorskip(f"pgcore_{framework}.xp")
    own = {
        "torch": lambda x, y: pytest.importorskip("torch").maximum(x, y),
        "jax": lambda x, y: pytest.importorskip("jax.numpy").maximum(x, y),
        "tensorflow": lambda x, y: pytest.importorskip("tensorflow").maximum(y, x),
    }[framework]
    monkeypatch.setattr(type(module.xp), "maximum", staticmethod(own))


@pytest.mark.parametrize("framework", ["torch", "tensorflow", "jax"])
def test_a_frameworks_own_tie_is_found(monkeypatch, framework):
    split_maximum(monkeypatch, framework)
    # Another estimator, for which nothing has been compiled.
    found = slope_at(framework, "maximum, first", estimator=type("Planted", (Tied,), {}))
    assert np.all(np.abs(found - TIES["maximum, first"][1]) >= 0.5)
