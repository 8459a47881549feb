"""The probes of `xp`, which `pgcore_check.suite.test_cells` runs on every backend: each finds what it is about.

A new function of `ArrayNamespace` without a probe fails here.
"""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.xp.namespace import ArrayNamespace
from pgcore.xp.numpy import host
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.probes import PROBES
from pgcore_check.outcomes import Cell, probe_outcome, reason
from pgcore_check.stages.probing import Probed, probe_errors
from pgcore_check.testing import parametrize_backends

FUNCTIONS = sorted(name for name in vars(ArrayNamespace) if not name.startswith("_"))


def wrong_probes(names, backend, dtype, **options):
    """Return the names of the probes whose terms or derivatives are not the hand-worked ones."""
    errors = probe_errors(backend, dtype, names=tuple(names), **options)
    assert errors.keys() == set(names)
    return {name for name, (error, _) in errors.items() if error > FACTOR}


def test_every_function_of_the_namespace_has_a_probe_that_calls_it():
    assert sorted({probe.function for probe in PROBES.values()}) == FUNCTIONS
    for name, probe in PROBES.items():
        called = []

        class Recorded:
            def __getattr__(self, function, called=called):
                called.append(function)
                return getattr(host, function)

        rows = np.array([q for q, _, _ in probe.cases])
        with np.errstate(all="ignore"):
            probe.formula(
                Recorded(), rows, np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
            )
        assert probe.function in called, name


def own_clip(framework):
    """Return the framework's function, with the subgradient 0 at a bound that PyTorch 2.14 has for numbers."""
    if framework == "torch":
        torch = pytest.importorskip("torch")
        return lambda x, low, high: torch.where(
            (x > low) & (x < high), x, torch.clamp(x.detach(), low, high)
        )
    if framework == "tensorflow":
        tf = pytest.importorskip("tensorflow")
        return lambda x, low, high: tf.where(
            (x > low) & (x < high), x, tf.stop_gradient(tf.clip_by_value(x, low, high))
        )
    return pytest.importorskip("jax.numpy").clip  # one half


def halves(framework, choice):
    """Return a framework's own `maximum` or `minimum`, with a gradient that is split on a tie whatever the framework does."""
    xp = pytest.importorskip(f"pgcore_{framework}.xp").xp
    where = xp.where
    better = (lambda x, y: x > y) if choice == "maximum" else (lambda x, y: x < y)
    return lambda x, y: where(better(x, y), x, where(better(y, x), y, 0.5 * x + 0.5 * y))


PLANTED = {
    "clip": (own_clip, {"clip, numbers"}),
    "maximum": (lambda framework: halves(framework, "maximum"), {"maximum"}),
    "minimum": (lambda framework: halves(framework, "minimum"), {"minimum"}),
    "abs": (
        lambda framework: (
            lambda x: pytest.importorskip(f"pgcore_{framework}.xp").xp.where(x < 0, -x, x)
        ),
        {"abs"},
    ),
    "first_largest": (lambda framework: lambda x: x >= x[:, 1:2], {"first_largest"}),
}


@pytest.mark.parametrize("function", PLANTED)
@pytest.mark.parametrize("framework", ["torch", "tensorflow", "jax"])
def test_a_wrong_subgradient_is_found(monkeypatch, framework, function):
    plant, names = PLANTED[function]
    planted = plant(framework)
    monkeypatch.setattr(
        type(pytest.importorskip(f"pgcore_{framework}.xp").xp), function, staticmethod(planted)
    )
    # Another estimator, for which nothing has been compiled.
    assert (
        wrong_probes(sorted(names), framework, "float64", cls=type("Planted", (Probed,), {}))
        == names
    )


@pytest.mark.parametrize("function", ["maximum", "minimum"])
def test_check_says_which_function_departs_and_how(monkeypatch, function):
    xp = pytest.importorskip("pgcore_torch.xp").xp
    monkeypatch.setattr(type(xp), function, staticmethod(halves("torch", function)))
    outcome = probe_outcome(Cell("torch", "eager", "probe"), "float64")
    assert (outcome.stage, outcome.fixture) == ("probe", "probe")
    assert not outcome.agrees
    assert reason(outcome).startswith(
        f"departs at probe, xp.{function}: derivative expected (1, 0, 0), got (0.5, 0.5, 0); "
    )


def relu_slope(backend):
    """Return the derivatives in the hidden biases at pre-activations of 0 and 1e-3."""
    spec = pg.PolicySpec(pg.MLP(1, (2,), "relu"), pg.Categorical(2))
    policy = pg.policy(spec, backend=backend, dtype="float64")
    bias = np.array([0.0, 1e-3])
    parameters = {
        "network.0.weight": np.zeros((1, 2)),
        "network.0.bias": bias,
        "network.1.weight": np.eye(2)[::-1],
    }
    policy.load(policy.parameters() | parameters)
    batch = pg.Batch(
        observations=[[1.0]], actions=[0], rewards=[1.0], episode_lengths=[1], terminated=[True]
    )
    return pg.gradient(policy, pg.estimator("reinforce"), batch).numpy()["network.0.bias"]


@parametrize_backends()
def test_the_derivative_of_relu_at_0_is_0(backend):
    at_zero, above = relu_slope(backend)
    assert at_zero == 0.0
    assert above == pytest.approx(-0.5, rel=1e-3)
