"""NumPy's functions and operators of arrays on a device, beside those of the host's arrays."""

from __future__ import annotations

import importlib
from typing import Any, cast

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

import pgcore as pg
from pgcore.data.device_array import Device, DeviceArray
from pgcore.data.native import arrays_of
from pgcore.returns import discounted_sum, state_discounts

X = np.random.default_rng(0).standard_normal(7)
Y = np.random.default_rng(1).standard_normal((7, 3))
MASK, NUMBERS = X > 0, np.array([2, 0, 2, 2, 4, 0, 1])
FRAMEWORKS = {
    "numpy": ("numpy", "asarray"),
    "torch": ("torch", "as_tensor"),
    "jax": ("jax.numpy", "asarray"),
    "tensorflow": ("tensorflow", "convert_to_tensor"),
}

OPERATORS = {
    "arithmetic": lambda x, y: [x + X, X * x, x / 2, 2 - x, x**2, -x, 0.9**x, np.float64(2) * x],
    "of booleans": lambda x, y: [(x > 0) + MASK, MASK * x, (x > 0) * X, (x > 0) * MASK, ~(x > 0)],
    "comparisons": lambda x, y: [
        (x >= 0) & MASK,
        x == x[0],
        x != X,
        MASK | (x > X),
        MASK ^ (x > 0),
    ],
    "elementary": lambda x, y: [np.exp(x), np.abs(x), np.tanh(x), np.sqrt(x * x), np.log(x * x)],
    "special numbers": lambda x, y: [
        np.isnan(x),
        np.isfinite(np.where(MASK, x, np.inf)),
        x.astype(bool),
    ],
    "extremes": lambda x, y: [np.minimum(x, 0.3), np.maximum(X, x), np.clip(x, -0.1, 0.1)],
    "sums": lambda x, y: [
        x.sum(),
        y.sum(axis=1),
        np.sum(y, axis=0, keepdims=True),
        np.add.reduce(y),
    ],
    "means": lambda x, y: [x.mean(), y.mean(axis=0), np.var(x, ddof=1), np.std(y, axis=0)],
    "largest": lambda x, y: [x.max(), y.max(axis=0), y.min(axis=1), x.argmax(), y.argmax(axis=1)],
    "truth": lambda x, y: [
        (x > 0).any(),
        (x > 9).all(),
        (y > 0).all(axis=1),
        np.count_nonzero(x > 0),
    ],
    "rows": lambda x, y: [x[::-1], x[MASK], x[[3, -1]], x[-1], x[np.int64(2)], y[MASK], y[1:3]],
    "entries": lambda x, y: [
        y[:, 0],
        y[:, None],
        y[np.arange(7), y.argmax(axis=1)],
        y[(0, 1), (2, 0)],
    ],
    "device masks": lambda x, y: [x[x > 0], y[y > 0], np.where(x > 0, x, 0.0)],
    "choices": lambda x, y: [
        np.where(MASK, 0.0, x),
        np.where(x > 0, 0.0, 1.0),
        np.where(x > 0, X, 1),
    ],
    "filled": lambda x, y: [
        np.zeros_like(y, shape=(2, 3)),
        np.full_like(x, 3.0),
        np.ones_like(x > 0),
    ],
    "joined": lambda x, y: [
        np.concatenate([x, X]),
        np.stack([x, x], axis=1),
        np.repeat(y, 2, axis=0),
    ],
    "shapes": lambda x, y: [
        y.T,
        y.reshape(-1),
        y.reshape((3, -1)),
        y.ravel(),
        x.copy(),
        len(y),
        y.ndim,
    ],
    "running sums": lambda x, y: [np.cumsum(x), np.add.reduceat(y, [0, 3, 4], axis=0)],
    "counted": lambda x, y: [np.bincount(NUMBERS, x), np.bincount(NUMBERS, weights=x, minlength=8)],
    "sorted": lambda x, y: [np.argsort(x), np.sort(x), np.quantile(x, 0.3), np.quantile(x, 0.5)],
    "weighed": lambda x, y: [
        np.average(x, weights=X * X),
        np.vdot(x, X),
        np.broadcast_to(x[:1], (7,)),
    ],
    "no function of a device": lambda x, y: [
        np.expm1(x),
        np.median(x),
        x.round(1),
        np.unique(x),
        y @ Y.T,
    ],
}


@pytest.fixture(params=FRAMEWORKS)
def place(request):
    """Return a device of each framework, in float64, and a function to its arrays."""
    module, name = FRAMEWORKS[request.param]
    make = getattr(pytest.importorskip(module), name)
    arrays: Any = pg.backend("numpy").arrays if module == "numpy" else arrays_of(make(X))
    with arrays.computing("float64"):
        device = Device(arrays, make(X)[:0], "float64")
        yield lambda x: device.array(make(x.copy()))


@pytest.mark.parametrize("group", OPERATORS)
def test_results_are_numpys(place, group):
    pairs = zip(OPERATORS[group](place(X), place(Y)), OPERATORS[group](X, Y), strict=True)
    for found, expected in pairs:
        assert np.shape(found) == np.shape(expected)
        assert np.asarray(found).dtype.kind in (np.asarray(expected).dtype.kind, "f")
        np.testing.assert_allclose(
            np.asarray(found, float), np.asarray(expected, float), rtol=1e-12, atol=1e-15
        )


def assigned(x, y):
    """Return copies with rows and entries replaced in every way."""
    z, w, total = x.copy(), y.copy(), np.zeros_like(x, shape=5)
    z[1:3] = x[4:6]
    z[np.array([0, 6])] = 5.0
    z[MASK] += 0.5
    z[[1, 2]] = x[:2]
    z[x < -0.5] = 9.0
    w[MASK], w[2, 1], w[:, 2] = 1.0, 7.0, x
    np.add.at(total, NUMBERS, x)
    z *= X
    z += 1
    return z, w, total, x, y


def test_assignment_changes_one_array_alone(place):
    for found, expected in zip(assigned(place(X), place(Y)), assigned(X, Y), strict=True):
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-12)
        assert isinstance(found, DeviceArray)


@pytest.mark.parametrize("index", [[7], [-8], 9, np.ones(6, bool)])
def test_an_index_outside_is_refused_on_the_host(place, index):
    """A device would read other memory."""
    with pytest.raises(IndexError):
        place(X)[np.asarray(index)]


def test_a_method_that_would_change_a_copy_is_refused(place):
    with pytest.raises(AttributeError, match="sort"):
        place(X).sort()


@hypothesis.given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
@hypothesis.settings(max_examples=50, deadline=None)
def test_doubling_solves_the_recursion(lengths, seed):
    """Of rows that are numbers or rows; the coefficient of the last row is not read."""
    rng, steps = np.random.default_rng(seed), sum(lengths)
    coefficient = rng.uniform(-1.5, 1.5, steps)
    coefficient[np.cumsum(lengths) - 1] = 0.0
    arrays = importlib.import_module("pgcore_numpy.arrays").NumpyArrays()
    device = Device(arrays, np.zeros(0), "float64")
    x: Any = rng.standard_normal(steps)
    expected = discounted_sum(x, coefficient)
    coefficient[-1] = np.nan
    for known in (np.array(lengths), None):
        found = discounted_sum(cast("Any", device.array(x)), coefficient, known)
        np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-10, atol=1e-12)
    gamma, ends = rng.uniform(0.0, 1.0, steps), np.array(lengths)
    found = state_discounts(ends, cast("Any", device.array(gamma)))
    np.testing.assert_allclose(np.asarray(found), state_discounts(ends, gamma), rtol=1e-12)
