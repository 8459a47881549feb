"""The bound that carries along covers every honest evaluation, and is not so wide that it would cover others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pgcore.testing.running_error import Bounded, bounded

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
    a, b = Bounded(np.array([[2.0]]), np.array([[1.0]])), Bounded(np.array([[-3.0]]), np.array([[4.0]]))
    assert (a + b).error == 1 + 4 + 1
    assert (a - b).error == 1 + 4 + 5
    assert (a * b).error == 2 * 4 + 3 * 1 + 6
    assert (a / b).error == pytest.approx((1 + 2 / 3 * 4) / 3 + 2 / 3)
    assert (a @ b).error == 2 * 4 + 1 * 3 + 1 * 6
    assert a.sum().error == 1 + 2
    assert (-a).error == 1
    assert np.exp(a).error == pytest.approx(np.exp(2.0) * 9)
    assert np.log(a).error == pytest.approx(1 / 2 + 8 * np.log(2.0))
    assert np.tanh(a).error == pytest.approx((1 - np.tanh(2.0) ** 2) + 8 * np.tanh(2.0))
    assert bounded(0.1).error == pytest.approx(0.1)
    assert bounded(3).error == 0
    assert np.exp(bounded(np.array([-np.inf]))).error == 0


def test_what_has_no_rule_is_refused():
    x: Any = bounded(np.ones((2, 2)))
    with pytest.raises(TypeError, match=r"expected one of .*, got sin\.__call__; add its error rule"):
        np.sin(x)
    with pytest.raises(TypeError, match=r"got add\.reduce"):
        np.add.reduce(x)
    with pytest.raises(TypeError, match="got stack; add its error rule"):
        np.stack([x, x])
