"""Every function of `xp` on every backend: values and derivatives beside constants that are worked out by hand.

A probe is a formula of one row q = (q_0, q_1, q_2), which a critic's table holds, so that a policy's gradient has its derivatives. All probes of
a backend are one surrogate, compiled once. A new function of `ArrayNamespace` without a probe fails here, and so does a framework's
version with another subgradient.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest

import pgcore as pg
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.errors import NonFiniteError
from pgcore.interfaces.signals import Signals
from pgcore.registry.registry import registry
from pgcore.xp.namespace import ArrayNamespace
from pgcore.xp.numpy import host

FUNCTIONS = sorted(name for name in vars(ArrayNamespace) if not name.startswith("_"))
NAN, INF = math.nan, math.inf

# Roundings that an elementary function may be off by, in units of the dtype's resolution.
ROUNDINGS = 8


@dataclasses.dataclass(frozen=True)
class Probe:
    """One formula with its values and derivatives.

    Attributes:
        function: The function of `xp` that it is about.
        formula: From xp, [B, 3] q, [B] index and [B] episode to [B] terms.
        cases: q, the term, and the sum of its episode's terms differentiated in q; an episode has two rows, of one case each.
        symbolic: Whether the formula can be differentiated symbolically, which backends of closed forms need.
    """

    function: str
    formula: Callable[[Any, Any, Any, Any], Any]
    cases: tuple[tuple[tuple[float, ...], float, tuple[float, ...]], ...]
    symbolic: bool = True


def of_one(function, formula, *cases, symbolic=True):
    """Return the probe of a formula of q_0, from (q_0, term, derivative)."""
    rows = tuple(((x, 0.0, 0.0), value, (slope, 0.0, 0.0)) for x, value, slope in cases)
    return Probe(function, lambda xp, q, _index, _episode: formula(xp, q[:, 0]), rows, symbolic)


def of_row(function, formula, *cases, symbolic=True):
    """Return the probe of a formula of all of q."""
    return Probe(function, lambda xp, q, _index, _episode: formula(xp, q), cases, symbolic)


def masked(xp, q):
    """Return q with -inf for entries above 50."""
    return xp.where(q < 50.0, q, -INF)


CLIPPED = ((-2.0, -1.0, 0.0), (-1.0, -1.0, 1.0), (0.0, 0.0, 1.0), (2.0, 2.0, 1.0), (3.0, 2.0, 0.0))

PROBES = {
    "exp": of_one(
        "exp", lambda xp, x: xp.exp(x), (0.0, 1.0, 1.0), (1.0, math.e, math.e), (-1000.0, 0.0, 0.0)
    ),
    "exp of -inf": of_one("exp", lambda xp, x: xp.exp(x - INF), (1.0, 0.0, 0.0), symbolic=False),
    "log": of_one("log", lambda xp, x: xp.log(x), (1.0, 0.0, 1.0), (2.0, 0.6931471805599453, 0.5)),
    "sqrt": of_one("sqrt", lambda xp, x: xp.sqrt(x), (1.0, 1.0, 0.5), (4.0, 2.0, 0.25)),
    "tanh": of_one(
        "tanh",
        lambda xp, x: xp.tanh(x),
        (0.0, 0.0, 1.0),
        (0.5, 0.46211715726000975, 0.7864477329659274),
        (-1000.0, -1.0, 0.0),
    ),
    "sigmoid": of_one(
        "sigmoid",
        lambda xp, x: xp.sigmoid(x),
        (0.0, 0.5, 0.25),
        (-1000.0, 0.0, 0.0),
        (1000.0, 1.0, 0.0),
    ),
    "relu": of_one(
        "relu", lambda xp, x: xp.relu(x), (-1.0, 0.0, 0.0), (0.0, 0.0, 0.0), (2.0, 2.0, 1.0)
    ),
    "relu of NaN": of_one("relu", lambda xp, x: xp.relu(x + NAN), (1.0, NAN, 1.0), symbolic=False),
    "abs": of_one(
        "abs", lambda xp, x: xp.abs(x), (-2.0, 2.0, -1.0), (0.0, 0.0, 0.0), (3.0, 3.0, 1.0)
    ),
    "abs of -inf": of_one("abs", lambda xp, x: xp.abs(x - INF), (1.0, INF, -1.0), symbolic=False),
    "abs of NaN": of_one("abs", lambda xp, x: xp.abs(x + NAN), (1.0, NAN, 1.0), symbolic=False),
    "maximum": of_row(
        "maximum",
        lambda xp, q: xp.maximum(q[:, 0], q[:, 1]),
        ((1.0, 2.0, 0.0), 2.0, (0.0, 1.0, 0.0)),
        ((2.0, 1.0, 0.0), 2.0, (1.0, 0.0, 0.0)),
        ((2.0, 2.0, 0.0), 2.0, (1.0, 0.0, 0.0)),
    ),
    "maximum, number second": of_one(
        "maximum",
        lambda xp, x: xp.maximum(x, 0.5),
        (0.0, 0.5, 0.0),
        (0.5, 0.5, 1.0),
        (1.0, 1.0, 1.0),
    ),
    "maximum, number first": of_one(
        "maximum",
        lambda xp, x: xp.maximum(0.5, x),
        (0.0, 0.5, 0.0),
        (0.5, 0.5, 0.0),
        (1.0, 1.0, 1.0),
    ),
    "maximum of -inf": of_one(
        "maximum", lambda xp, x: xp.maximum(x, -INF), (1.0, 1.0, 1.0), symbolic=False
    ),
    "maximum, NaN first": of_one(
        "maximum", lambda xp, x: xp.maximum(x + NAN, x), (1.0, NAN, 1.0), symbolic=False
    ),
    "maximum, NaN second": of_one(
        "maximum", lambda xp, x: xp.maximum(x, 2.0 * x + NAN), (1.0, NAN, 2.0), symbolic=False
    ),
    "minimum": of_row(
        "minimum",
        lambda xp, q: xp.minimum(q[:, 0], q[:, 1]),
        ((1.0, 2.0, 0.0), 1.0, (1.0, 0.0, 0.0)),
        ((2.0, 1.0, 0.0), 1.0, (0.0, 1.0, 0.0)),
        ((2.0, 2.0, 0.0), 2.0, (1.0, 0.0, 0.0)),
    ),
    "minimum, number second": of_one(
        "minimum",
        lambda xp, x: xp.minimum(x, 0.5),
        (0.0, 0.0, 1.0),
        (0.5, 0.5, 1.0),
        (1.0, 0.5, 0.0),
    ),
    "minimum, number first": of_one(
        "minimum",
        lambda xp, x: xp.minimum(0.5, x),
        (0.0, 0.0, 1.0),
        (0.5, 0.5, 0.0),
        (1.0, 0.5, 0.0),
    ),
    "minimum of inf": of_one(
        "minimum", lambda xp, x: xp.minimum(x, INF), (1.0, 1.0, 1.0), symbolic=False
    ),
    "minimum, NaN first": of_one(
        "minimum", lambda xp, x: xp.minimum(x + NAN, x), (1.0, NAN, 1.0), symbolic=False
    ),
    "minimum, NaN second": of_one(
        "minimum", lambda xp, x: xp.minimum(x, 2.0 * x + NAN), (1.0, NAN, 2.0), symbolic=False
    ),
    "clip, numbers": of_one("clip", lambda xp, x: xp.clip(x, -1.0, 2.0), *CLIPPED),
    "clip, NumPy's numbers": of_one(
        "clip", lambda xp, x: xp.clip(x, np.float64(-1.0), np.float64(2.0)), *CLIPPED
    ),
    "clip, arrays": of_one(
        "clip", lambda xp, x: xp.clip(x, xp.full_like(x, -1.0), xp.full_like(x, 2.0)), *CLIPPED
    ),
    "clip, one of each": of_one(
        "clip", lambda xp, x: xp.clip(x, -1.0, xp.full_like(x, 2.0)), *CLIPPED
    ),
    "clip, equal bounds": of_one(
        "clip",
        lambda xp, x: xp.clip(x, 0.0, 0.0),
        (-1.0, 0.0, 0.0),
        (0.0, 0.0, 1.0),
        (1.0, 0.0, 0.0),
    ),
    "clip, bounds with a gradient": of_row(
        "clip",
        lambda xp, q: xp.clip(q[:, 0], q[:, 1], q[:, 2]),
        ((-1.0, 0.0, 1.0), 0.0, (0.0, 1.0, 0.0)),
        ((0.0, 0.0, 1.0), 0.0, (1.0, 0.0, 0.0)),
        ((1.0, 0.0, 1.0), 1.0, (1.0, 0.0, 0.0)),
        ((2.0, 0.0, 1.0), 1.0, (0.0, 0.0, 1.0)),
    ),
    "clip, no bounds": of_one(
        "clip",
        lambda xp, x: xp.clip(x, -INF, xp.full_like(x, INF)),
        (-3.0, -3.0, 1.0),
        symbolic=False,
    ),
    "clip of inf": of_one(
        "clip", lambda xp, x: xp.clip(x + INF, 0.0, 2.0), (1.0, 2.0, 0.0), symbolic=False
    ),
    "clip of NaN": of_one(
        "clip", lambda xp, x: xp.clip(x + NAN, 0.0, 2.0), (1.0, NAN, 1.0), symbolic=False
    ),
    "where": of_row(
        "where",
        lambda xp, q: xp.where(q[:, 0] >= 0.0, q[:, 1], q[:, 2]),
        ((-1.0, 2.0, 3.0), 3.0, (0.0, 0.0, 1.0)),
        ((0.0, 2.0, 3.0), 2.0, (0.0, 1.0, 0.0)),
    ),
    "where, number first": of_one(
        "where", lambda xp, x: xp.where(x > 0.0, 0.1, x), (-1.0, -1.0, 1.0), (1.0, 0.1, 0.0)
    ),
    "where, number second": of_one(
        "where",
        lambda xp, x: xp.where(x > 0.0, x, np.float64(0.1)),
        (-1.0, 0.1, 0.0),
        (1.0, 1.0, 1.0),
    ),
    "where, NaN beside": of_one(
        "where", lambda xp, x: xp.where(x > 0.0, x, x + NAN), (1.0, 1.0, 1.0), symbolic=False
    ),
    "sum": of_row("sum", lambda xp, q: xp.sum(q * q, 1), ((1.0, 2.0, 3.0), 14.0, (2.0, 4.0, 6.0))),
    "sum, axis from the end": of_row(
        "sum", lambda xp, q: xp.sum(q, -1), ((1.0, 2.0, 3.0), 6.0, (1.0, 1.0, 1.0))
    ),
    "sum of -inf": of_row(
        "sum",
        lambda xp, q: xp.sum(masked(xp, q), 1),
        ((1.0, 2.0, 99.0), -INF, (1.0, 1.0, 0.0)),
        symbolic=False,
    ),
    "matmul": of_row(
        "matmul",
        lambda xp, q: xp.matmul(q, xp.full_like(q, 2.0)[0][:, None])[:, 0],
        ((1.0, 2.0, 3.0), 12.0, (2.0, 2.0, 2.0)),
        symbolic=False,
    ),
    # The entries of the first row, as a table of one column.
    "take_rows": Probe(
        "take_rows",
        lambda xp, q, index, _episode: xp.take_rows(q[0][:, None], index)[:, 0],
        (((4.0, 5.0, 6.0), 4.0, (1.0, 0.0, 1.0)), ((4.0, 5.0, 6.0), 6.0, (0.0, 0.0, 0.0))),
        symbolic=False,
    ),
    "concatenate": of_row(
        "concatenate",
        lambda xp, q: xp.sum(xp.concatenate((2.0 * q[:, 1:], q), 1), 1),
        ((1.0, 2.0, 3.0), 16.0, (1.0, 3.0, 3.0)),
        symbolic=False,
    ),
    "broadcast_to": of_row(
        "broadcast_to",
        lambda xp, q: xp.sum(xp.broadcast_to(q[:, 0][:, None], q) * q, 1),
        ((1.0, 2.0, 3.0), 6.0, (7.0, 1.0, 1.0)),
    ),
    "log_softmax": of_row(
        "log_softmax",
        lambda xp, q: xp.log_softmax(q, 1)[:, 0],
        ((0.0, 0.0, 0.0), -1.0986122886681098, (2 / 3, -1 / 3, -1 / 3)),
        ((1000.0, 0.0, 0.0), 0.0, (0.0, 0.0, 0.0)),
        ((0.0, 1000.0, 0.0), -1000.0, (1.0, -1.0, 0.0)),
    ),
    "log_softmax of -inf": of_row(
        "log_softmax",
        lambda xp, q: xp.log_softmax(masked(xp, q), 1)[:, 0],
        ((0.0, 0.0, 99.0), -0.6931471805599453, (0.5, -0.5, 0.0)),
        ((0.0, 99.0, 99.0), 0.0, (0.0, 0.0, 0.0)),
        ((99.0, 0.0, 0.0), -INF, (0.0, -0.5, -0.5)),
        symbolic=False,
    ),
    "take_last": Probe(
        "take_last",
        lambda xp, q, index, _episode: xp.take_last(q, index),
        (((4.0, 5.0, 6.0), 4.0, (1.0, 0.0, 0.0)), ((4.0, 5.0, 6.0), 6.0, (0.0, 0.0, 1.0))),
    ),
    "first_largest": of_row(
        "first_largest",
        lambda xp, q: xp.sum(xp.where(xp.first_largest(q), q * q, 0.0), 1),
        ((1.0, 2.0, 3.0), 9.0, (0.0, 0.0, 6.0)),
        ((1.0, 2.0, 2.0), 4.0, (0.0, 4.0, 0.0)),
        symbolic=False,
    ),
    "first_largest of -inf": of_row(
        "first_largest",
        lambda xp, q: xp.sum(xp.where(xp.first_largest(masked(xp, q)), q, 0.0), 1),
        ((99.0, 2.0, 2.0), 2.0, (0.0, 1.0, 0.0)),
        ((98.0, 99.0, 99.0), 98.0, (1.0, 0.0, 0.0)),
        symbolic=False,
    ),
    "episode_sum": Probe(
        "episode_sum",
        lambda xp, q, _index, episode: q[:, 1] * xp.episode_sum(q[:, 0], episode),
        (((1.0, 2.0, 0.0), 6.0, (7.0, 3.0, 0.0)), ((2.0, 5.0, 0.0), 15.0, (7.0, 3.0, 0.0))),
    ),
    "episode_mean": Probe(
        "episode_mean",
        lambda xp, q, _index, episode: q[:, 1] * xp.episode_mean(q[:, 0], episode),
        (((1.0, 2.0, 0.0), 3.0, (3.5, 1.5, 0.0)), ((2.0, 5.0, 0.0), 7.5, (3.5, 1.5, 0.0))),
    ),
    "full_like": of_one("full_like", lambda xp, x: xp.full_like(x, 0.1) * x, (3.0, 0.3, 0.1)),
}

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


def rows_of(probe):
    """Return a probe's cases, the last one again where their number is odd."""
    return probe.cases if len(probe.cases) % 2 == 0 else (*probe.cases, probe.cases[-1])


@dataclasses.dataclass(frozen=True)
class Probed(pg.Estimator):
    """The terms of a probe, or of several on one another's heels; 0 at steps after theirs, which are padding."""

    name: ClassVar[str] = "probed"
    probes: tuple[Probe, ...]

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False, off_policy="limited", needs_critic=True, discrete_only=True
        )

    def signals(self, batch, evaluate):
        raise AssertionError

    def surrogate(self, xp, *, action_values, index, episode):
        if len(self.probes) == 1:
            return self.probes[0].formula(xp, action_values, index, episode)
        terms, start = [], 0
        for probe in self.probes:
            steps = slice(start, start + len(rows_of(probe)))
            first = start // 2  # an episode has two steps
            terms.append(
                probe.formula(xp, action_values[steps], index[steps], episode[steps] - first)
            )
            start = steps.stop
        return xp.concatenate((*terms, 0.0 * action_values[start:, 0]), 0)


class ProbedValues(Probed):
    """One whose derivatives are not looked at."""

    def cotangents(self, *, action_values, index, episode):
        return {"action_values": np.zeros_like(action_values)}


def gradient_of(estimator, backend, dtype, *, compiled=False):
    """Return [N] terms and [N, 3] derivatives of an estimator's probes, with what they should be, and each row's probe."""
    rows = []
    for number, probe in enumerate(estimator.probes):
        rows += [(number, *case) for case in rows_of(probe)]
    count = len(rows)
    spec = pg.PolicySpec(pg.Table(count), pg.Categorical(3), "separate", "action")
    policy = pg.policy(spec, backend=backend, dtype=dtype, compiled=compiled)
    policy.load(policy.parameters() | {"critic.table": np.array([q for _, q, _, _ in rows])})
    batch = pg.Batch(
        observations=np.arange(count),
        actions=np.zeros(count, np.int64),
        rewards=np.zeros(count),
        episode_lengths=np.full(count // 2, 2),
        terminated=np.ones(count // 2, np.bool_),
    )
    # What `take_last` takes: the first entry, then the last.
    values = {"index": np.arange(count) % 2 * 2, "episode": batch.episode_of_step}
    signals = Signals(values, np.ones(count, dtype), padded=False)
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    terms, slopes = gradient.terms(), gradient.numpy()["critic.table"]
    assert terms.dtype == slopes.dtype == dtype
    expected = np.array([value for *_, value, _ in rows]), np.array([slope for *_, slope in rows])
    return (terms, slopes), expected, [number for number, *_ in rows]


def close(found, expected, dtype):
    """Return [N] whether each row is right: to a few roundings, and exactly where it should be 0, infinite or NaN."""
    eps = np.finfo(dtype).eps
    right = np.isclose(found, expected, rtol=ROUNDINGS * eps, atol=ROUNDINGS * eps, equal_nan=True)
    return right.reshape(len(right), -1).all(axis=1)


def wrong_probes(names, backend, dtype, *, compiled=False, cls=Probed):
    """Return the names of the probes whose terms or derivatives are not the hand-worked ones."""
    wrong = set()
    one_by_one = not isinstance(pg.policy(SMALL, backend=backend, dtype=dtype), AutodiffPolicy)
    for group in [(name,) for name in names] if one_by_one else [tuple(names)]:
        probes = tuple(PROBES[name] for name in group)
        derived = not one_by_one or probes[0].symbolic
        estimator = (cls if derived else ProbedValues)(probes)
        found, expected, numbers = gradient_of(estimator, backend, dtype, compiled=compiled)
        for index in range(2 if derived else 1):
            right = close(found[index], expected[index], dtype)
            wrong |= {
                group[number] for number, fits in zip(numbers, right, strict=True) if not fits
            }
    return wrong


# One probe a function, and those where NaN, infinity or the type of an argument could take another way: compilation takes its time.
COMPILED = [
    *{probe.function: name for name, probe in reversed(PROBES.items())}.values(),
    "abs of NaN",
    "maximum, NaN first",
    "clip, arrays",
    "clip, bounds with a gradient",
    "clip of NaN",
    "log_softmax of -inf",
]

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
    assert wrong_probes(COMPILED, backend, "float32", compiled=True) == set()


@pytest.mark.parametrize("name", SINGULAR)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_derivative_that_is_no_number_is_not_hidden(backend, name):
    probe = SINGULAR[name]
    if not isinstance(pg.policy(SMALL, backend=backend), AutodiffPolicy) and not probe.symbolic:
        pytest.skip(f"{backend}: has no derivative of a formula that holds NaN")
    with (
        pytest.raises(NonFiniteError, match="probed: expected finite numbers, got"),
        np.errstate(all="ignore"),
    ):
        gradient_of(Probed((probe,)), backend, "float64")


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
