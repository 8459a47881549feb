"""Every function of `xp` on every backend: values and derivatives beside constants that are worked out by hand.

A new function of `ArrayNamespace` without a probe fails here, and so does a framework's version with another subgradient.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest

import pgcore as pg
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.errors import NonFiniteError
from pgcore.registry.registry import registry
from pgcore.xp.namespace import ArrayNamespace
from pgcore.xp.numpy import host
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.probes import PROBES, of_one, of_row
from pgcore_check.stages.probing import ESSENTIAL, Probed, probe_errors, probed

FUNCTIONS = sorted(name for name in vars(ArrayNamespace) if not name.startswith("_"))
NAN, INF = math.nan, math.inf


# Formulas of q_0 with a derivative that is no number there, and q_0.
SINGULAR = {
    "sqrt at 0": of_one("sqrt", lambda xp, x: xp.sqrt(x), (0.0, 0.0, INF)),
    "log at 0": of_one("log", lambda xp, x: xp.log(x), (0.0, -INF, INF)),
    "exp of NaN": of_one("exp", lambda xp, x: xp.exp(x + NAN), (0.0, NAN, NAN), symbolic=False),
    "log_softmax of inf": of_row(
        "log_softmax",
        lambda xp, q: xp.log_softmax(q / (1.0 - q), 1)[:, 0],
        ((1.0, 0.0, 0.0), NAN, (NAN, NAN, NAN)),
    ),
}


def wrong_probes(names, backend, dtype, **options):
    """Return the names of the probes whose terms or derivatives are not the hand-worked ones."""
    errors = probe_errors(backend, dtype, names=tuple(names), **options)
    assert errors.keys() == set(names)
    return {name for name, (error, _) in errors.items() if error > FACTOR}


SMALL = pg.PolicySpec(pg.Table(1), pg.Categorical(2))
REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
BACKENDS = [
    pytest.param(
        entry.provider.name,
        marks=[]
        if entry.status == "usable" or entry.provider.name in REQUIRED
        else pytest.mark.skip(f"{entry.provider.name}: {entry.reason}"),
    )
    for entry in registry().providers("backends")
]


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


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_derivatives_are_those_worked_by_hand(backend, dtype):
    assert wrong_probes(PROBES, backend, dtype) == set()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_compiled_policy_has_the_same_values_and_derivatives(backend):
    if "compiled" not in pg.backend(backend).modes[1:]:
        pytest.skip(f"{backend}: has one mode")
    assert wrong_probes(ESSENTIAL, backend, "float32", compiled=True) == set()


@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_derivative_that_is_no_number_is_not_hidden(backend, name):
    probe = SINGULAR[name]
    if not isinstance(pg.policy(SMALL, backend=backend), AutodiffPolicy) and not probe.symbolic:
        pytest.skip(f"{backend}: has no derivative of a formula that holds NaN")
    with (
        pytest.raises(NonFiniteError, match="xp: expected finite numbers, got"),
        np.errstate(all="ignore"),
    ):
        probed(Probed((probe,)), backend, "float64")


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


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_derivative_of_relu_at_0_is_0(backend):
    at_zero, above = relu_slope(backend)
    assert at_zero == 0.0
    assert above == pytest.approx(-0.5, rel=1e-3)
