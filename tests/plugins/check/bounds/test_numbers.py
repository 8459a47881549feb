"""Every function of `xp` and every operator in every number system of the kit, beside constants that are worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pgcore.xp.numpy import host
from pgcore_check.bounds.forward_mode import Dual, forward_mode
from pgcore_check.bounds.numbers import numbers, plain
from pgcore_check.bounds.running_error import Bounded, bounded
from pgcore_check.cases.probes import PROBES, rows_of


def extended(array):
    return np.asarray(array, np.longdouble)


def dual(lift):
    """Return a function to dual arrays, with a direction for each entry."""

    def lifted(array):
        eye = np.eye(array.size, dtype=np.longdouble).reshape(array.size, *array.shape)
        return Dual(lift(array), eye)

    return lifted


SYSTEMS = {
    "host": (host, np.asarray),
    "extended": (numbers, extended),
    "bounded": (numbers, bounded),
    "dual": (forward_mode, dual(extended)),
    "dual, bounded": (forward_mode, dual(bounded)),
}


def values_of(number):
    return plain(number.value if isinstance(number, Dual) else number).astype(float)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", PROBES)
def test_values_and_derivatives_are_those_worked_by_hand(name, system):
    probe, (xp, lift) = PROBES[name], SYSTEMS[system]
    rows = rows_of(probe)
    count = len(rows)
    index, episode = np.arange(count) % 2 * 2, np.arange(count) // 2
    with np.errstate(all="ignore"):
        result = probe.formula(xp, lift(np.array([q for q, _, _ in rows])), index, episode)
    terms = np.array([term for _, term, _ in rows])
    np.testing.assert_allclose(values_of(result), terms, rtol=1e-14, atol=1e-14)
    value = result.value if isinstance(result, Dual) else result
    if isinstance(value, Bounded):
        assert np.isfinite(value.error[np.isfinite(terms)]).all()
    if isinstance(result, Dual):
        directions = np.broadcast_to(plain(result.slopes), (3 * count, count))
        slopes = directions.reshape(count, 3, count).astype(float)
        same = episode[:, None] == episode
        # The sum of an episode's terms, differentiated in each of its rows.
        actual = (slopes * same[:, None, :]).sum(axis=2)
        np.testing.assert_allclose(actual, [slope for _, _, slope in rows], rtol=1e-14, atol=1e-14)


X = np.array([0.25, 1.0, 4.0])
Y = np.array([2.0, 3.0, 0.5])

# Formulas of x and y, with their values and derivatives in x and in y; comparisons have none.
OPERATORS = {
    "x + y": (lambda x, y: x + y, X + Y, X**0, X**0),
    "x - y": (lambda x, y: x - y, X - Y, X**0, -(X**0)),
    "x * y": (lambda x, y: x * y, X * Y, Y, X),
    "x / y": (lambda x, y: x / y, X / Y, 1 / Y, -X / Y**2),
    "-x": (lambda x, y: -x, -X, -(X**0), 0 * X),
    "abs": (lambda x, y: abs(x - y), abs(X - Y), np.sign(X - Y), np.sign(Y - X)),
    "1 + x": (lambda x, y: 1 + x, 1 + X, X**0, 0 * X),
    "1 - x": (lambda x, y: 1 - x, 1 - X, -(X**0), 0 * X),
    "2 * x": (lambda x, y: 2 * x, 2 * X, 2 + 0 * X, 0 * X),
    "1 / x": (lambda x, y: 1 / x, 1 / X, -1 / X**2, 0 * X),
    "array / x": (lambda x, y: Y / x, Y / X, -Y / X**2, 0 * X),
    "x ** 0": (lambda x, y: x**0, X**0, 0 * X, 0 * X),
    "x ** 1": (lambda x, y: x**1, X, X**0, 0 * X),
    "x ** 2": (lambda x, y: x**2, X**2, 2 * X, 0 * X),
    "x ** 30": (lambda x, y: x**30, X**30, 30 * X**29, 0 * X),
    "x ** -1": (lambda x, y: x**-1, 1 / X, -1 / X**2, 0 * X),
    "x ** 0.5": (lambda x, y: x**0.5, X**0.5, 0.5 / X**0.5, 0 * X),
    "x ** y": (lambda x, y: x**y, X**Y, Y * X ** (Y - 1), X**Y * np.log(X)),
    "2 ** x": (lambda x, y: 2.0**x, 2.0**X, 2.0**X * np.log(2.0), 0 * X),
    "x > y": (lambda x, y: (x > y) * x, (X > Y) * X, X > Y, 0 * X),
    "x >= 1": (lambda x, y: (x >= 1) * x, (X >= 1) * X, X >= 1, 0 * X),
    "x < 1": (lambda x, y: (x < 1) * x, (X < 1) * X, X < 1, 0 * X),
    "x <= 1": (lambda x, y: (x <= 1) * x, (X <= 1) * X, X <= 1, 0 * X),
    "x == 1": (lambda x, y: (x == 1) * x, (X == 1) * X, X == 1, 0 * X),
    "x != 1": (lambda x, y: (x != 1) * x, (X != 1) * X, X != 1, 0 * X),
    "array > x": (lambda x, y: (x < Y) * x, (Y > X) * X, Y > X, 0 * X),
    "reversed": (lambda x, y: x[::-1], X[::-1], None, None),
    "column": (lambda x, y: (x[:, None] * y)[1], Y, None, X[1] + 0 * Y),
    "len": (lambda x, y: x * len(x), 3 * X, 3 + 0 * X, 0 * X),
    "shape and ndim": (lambda x, y: x * (x.ndim + x.shape[0]), 4 * X, 4 + 0 * X, 0 * X),
}


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_have_the_values_and_derivatives_of_their_definition(name, system):
    formula, expected, slope_x, slope_y = OPERATORS[name]
    _, lift = SYSTEMS[system]
    x, y = lift(X), lift(Y)
    if isinstance(x, Dual):
        # Two directions: all of x, all of y.
        x, y = (
            Dual(x.value, extended(np.eye(2)[:, :1] + 0 * X)),
            Dual(y.value, extended(np.eye(2)[:, 1:] + 0 * Y)),
        )
    result = formula(x, y)
    np.testing.assert_allclose(values_of(result), expected, rtol=1e-15)
    if isinstance(result, Dual):
        for number, slope in enumerate((slope_x, slope_y)):
            if slope is not None:
                actual = plain(result.slopes)[number].astype(float)
                np.testing.assert_allclose(actual, slope, rtol=1e-15, atol=1e-18)


def test_a_sum_keeps_its_axis_where_it_is_asked_to():
    x = dual(bounded)(np.array([[1.0, 2.0], [3.0, 4.0]]))
    total = x.sum(1, keepdims=True)
    assert total.shape == (2, 1)
    assert total.slopes.shape == (4, 2, 1)
    assert values_of(total).tolist() == [[3.0], [7.0]]


def test_slopes_have_the_shape_of_a_value_that_a_constant_widened():
    x = Dual(extended([[1.0], [2.0]]), extended([[[1.0], [0.0]], [[0.0], [1.0]]]))
    wide = x + np.zeros((2, 3))
    assert wide.slopes.shape == (2, 2, 3)
    assert wide.sum(1).slopes.tolist() == [[3.0, 0.0], [0.0, 3.0]]


@pytest.mark.parametrize("exponent", [0.5, 1.5, 2.0, -1.0, 3.7])
def test_the_bound_of_a_power_holds_for_float64(exponent):
    rng = np.random.default_rng(0)
    base = rng.uniform(0.1, 3.0, 400)
    factor = bounded(base) * 1.1
    result = factor**exponent
    off = np.abs(np.longdouble((base * 1.1) ** exponent) - result.value)
    assert (off <= result.error * 2.0**-53).all()
    # And it says something: it is within two orders of magnitude of the rounding.
    assert (result.error * 2.0**-53).max() < 100 * off.max()
