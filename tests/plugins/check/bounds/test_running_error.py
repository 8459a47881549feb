"""The bound that carries along covers every honest evaluation, and is not so wide that it would cover others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pgcore_check.bounds.running_error import Bounded, bounded, bounded_in, choices

FORMULAS = {
    "sum": lambda x, y: x + y,
    "difference": lambda x, y: x - y,
    "product": lambda x, y: x * y,
    "quotient": lambda x, y: x / (y * y + 1),
    "exponential": lambda x, y: np.exp(x - y),
    "logarithm": lambda x, y: np.log(np.exp(x).sum(axis=1)),
    "tanh": lambda x, y: np.tanh(x @ y.T),
    "reflected": lambda x, y: 1 - 2 / (3 + x * x),
    "choice": lambda x, y: np.where(x > y, x * y, -x) + np.abs(y),
    "joined": lambda x, y: np.concatenate((x, y), axis=1)[:, 1:3].sum(axis=0),
    "constant": lambda x, y: x * 0.1 + np.full_like(y, 0.3),
    "comparison": lambda x, y: np.where((x <= y) | (x >= 0.5) | (y < -0.5), x, y).reshape(-1) - 1.0,
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", FORMULAS)
def test_float32_results_are_within_the_bound(name, seed):
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal((6, 4)).astype(np.float32) for _ in range(2))
    truth = FORMULAS[name](x.astype(np.longdouble), y.astype(np.longdouble))
    bound = FORMULAS[name](bounded(x), bounded(y))
    assert isinstance(bound, Bounded)
    np.testing.assert_allclose(bound.value, truth, rtol=1e-18)
    roundoff = np.finfo(np.float32).eps / 2
    error = np.abs(FORMULAS[name](x, y).astype(np.longdouble) - truth)
    assert (error <= roundoff * bound.error).all()
    # Honest bounds are some tens of roundoffs of the numbers that went in.
    assert (roundoff * bound.error < 1e-4 * (1 + np.abs(truth))).all()


def test_operators_follow_their_rules():
    a, b = (
        Bounded(np.array([[2.0]]), np.array([[1.0]])),
        Bounded(np.array([[-3.0]]), np.array([[4.0]])),
    )
    assert (a + b).error == 1 + 4 + 1
    assert (a - b).error == 1 + 4 + 5
    assert (a * b).error == 2 * 4 + 3 * 1 + 6
    assert (a / b).error == pytest.approx((1 + 2 / 3 * 4) / 3 + 2 / 3)
    assert (a @ b).error == 2 * 4 + 1 * 3 + 1 * 6
    assert a.sum().error == 1 + 2
    assert (-a).error == 1
    assert np.exp(a).error == pytest.approx(np.exp(2.0) * 9)
    assert np.log(a).error == pytest.approx(1 / 2 + 8 * np.log(2.0))
    assert np.sqrt(a).error == pytest.approx(1 / (2 * np.sqrt(2.0)) + np.sqrt(2.0))
    assert np.tanh(a).error == pytest.approx((1 - np.tanh(2.0) ** 2) + 8 * np.tanh(2.0))
    assert bounded(0.1).error == pytest.approx(0.1)
    assert bounded(3).error == 0
    assert np.exp(bounded(np.array([-np.inf]))).error == 0


def test_what_has_no_rule_is_refused():
    x: Any = bounded(np.ones((2, 2)))
    with pytest.raises(
        TypeError, match=r"expected one of .*, got sin\.__call__; add its error rule"
    ):
        np.sin(x)
    with pytest.raises(TypeError, match=r"got add\.reduce"):
        np.add.reduce(x)
    with pytest.raises(TypeError, match="got stack; add its error rule"):
        np.stack([x, x])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_underflows_is_within_the_floor(dtype):
    """A sigmoid whose exponential overflows is 0, where the truth is subnormal; frameworks flush the one or the other."""
    far = dtype(-90.0 if dtype == np.float32 else -710.0)
    x, weight = np.full((1, 1), far), np.full((1, 1), 1e30, dtype)
    lift = bounded_in(np.dtype(dtype))
    formulas = (
        lambda x, weight: 1 / (1 + np.exp(-x)) * weight,
        lambda x, weight: np.exp(x) @ weight,
        lambda x, weight: (np.exp(x / 2) * np.exp(x / 2)).sum() * weight,
    )
    for formula in formulas:
        truth = formula(x.astype(np.longdouble), weight.astype(np.longdouble))
        with np.errstate(over="ignore", under="ignore"):
            found = np.where(np.abs(formula(x, weight)) < 1, 0 * weight, weight)  # flushed
        bound = formula(lift(x), lift(weight))
        roundoff = np.finfo(dtype).eps / 2
        assert truth > 0
        assert (np.abs(found - truth) <= 4 * roundoff * bound.error).all()
        assert not (
            np.abs(found - truth) <= 4 * roundoff * formula(bounded(x), bounded(weight)).error
        ).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_exponent_may_be_uncertain_by_more_than_1(dtype):
    """Two log-probabilities whose roundings are larger than 1, as of actions far out."""
    scale = dtype(30 / np.finfo(dtype).eps)
    x, y = np.array([3.1, 3.1], dtype) * scale, np.array([3.1, 3.3], dtype) * scale

    def ratio(x, y, third):
        return np.exp((x * third) - (y * third))

    third = np.array([1.0, 1.0], dtype) / dtype(3)
    truth = ratio(*(array.astype(np.longdouble) for array in (x, y, third)))
    bound = ratio(*map(bounded_in(np.dtype(dtype)), (x, y, third)))
    with np.errstate(over="ignore", under="ignore"):
        rounded = ratio(x, y, third)
    roundoff = np.finfo(dtype).eps / 2
    assert np.isfinite(bound.error).all()
    assert (np.abs(rounded - truth) <= 4 * roundoff * bound.error).all()
    shifted = np.array([np.exp(np.longdouble(12.0)), 0.0])
    assert np.abs(shifted - truth)[0] <= 4 * roundoff * bound.error[0]
    assert np.abs(shifted - truth)[0] > 4 * roundoff * ratio(*map(bounded, (x, y, third))).error[0]


@pytest.mark.parametrize("constant", [0.1, np.longdouble("0.1")])
def test_a_single_float_is_a_rounded_constant(constant):
    assert (bounded(np.ones(2)) * constant).error.tolist() == pytest.approx([0.2, 0.2])


def test_the_nearest_choice_is_recorded_where_it_is_asked_for():
    a = Bounded(np.array([1.0, 2.0], np.longdouble), np.array([1.0, 1.0]))
    b = Bounded(np.array([1.0, 2.002], np.longdouble), np.array([1.0, 1.0]))
    zero = Bounded(np.array([1e-3, 5.0], np.longdouble), np.array([1.0, 1.0]))
    with choices() as near:
        assert list(a < b) == [False, True]
        _ = zero > 0, a >= bounded(np.array([1.0, -np.inf])), bounded(np.array([1.0])) > 1
    # Equal to the last digit, infinite and exact numbers are at no kink; beside 0 the bound is what counts.
    assert near == [pytest.approx(0.002 / 2.002), pytest.approx(1e-3 / 4e-3), np.inf, np.inf]
    _ = a < b
    assert len(near) == 4
