"""Derived cotangents of terms that nearly cancel, held to the rounding-error bound of their surrogate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

import pgcore as pg
from pgcore_check.bounds.agreement import FACTOR, allowance, largest
from pgcore_check.bounds.running_error import bounded_in
from pgcore_check.proofs import variants
from pgcore_check.reference import reference
from pgcore_check.reference.definition import loss_cotangents
from pgcore_derive.derivation import derive
from pgcore_derive.differences import points
from pgcore_derive.program import compile_expressions


@dataclasses.dataclass(frozen=True)
class Formula(pg.Estimator):
    """A term of log-probability, value and three signals: y is nearly x, and z nearly their difference."""

    term: Callable[..., Any]
    name: ClassVar[str] = "formula"

    @property
    def claims(self):
        return pg.Claims(
            unbiased=False, off_policy="limited", needs_critic=True, discrete_only=False
        )

    def signals(self, batch, evaluate):
        raise NotImplementedError

    def surrogate(self, xp, *, log_prob, value, x, y, z):
        return self.term(xp, log_prob, value, x, y, z)


CANCELLING = {
    "a square of a difference": lambda xp, p, v, x, y, z: (xp.exp(p) - 1.0) * (x - y) ** 2 + v,
    "a difference times a difference": lambda xp, p, v, x, y, z: p * (x - y) * (x - y + z) + v,
    "a sum in a square": lambda xp, p, v, x, y, z: p + ((x - y) + (v - z)) ** 2,
    "a sum in a sum": lambda xp, p, v, x, y, z: (z + (x - y)) * p + v * (x - (y + z)),
    "a difference of differences": lambda xp, p, v, x, y, z: (
        ((x - v) - (y - v)) * p + v * v * (x - y)
    ),
    "a choice in a sum": lambda xp, p, v, x, y, z: (xp.where(p > 0.0, x, z) - y + z) * p * v,
    "a clip of a sum": lambda xp, p, v, x, y, z: xp.clip((x - y) + z, -1.0, 1.0) * p + (x - y) * v,
    "an exponential of a sum": lambda xp, p, v, x, y, z: xp.exp((x - y) + (p - z)) * (x - y) + v,
    "a quotient of sums": lambda xp, p, v, x, y, z: (p + (x - y)) / (2.0 + (v * v + (x - y))),
    "an episode-free product": lambda xp, p, v, x, y, z: (p - 1.0 + (x - y)) * (v + 3.0 * (x - y)),
}


def arrays(seed, dtype, count=200):
    rng = np.random.default_rng(seed)
    x = 1000 * rng.standard_normal(count)
    apart = 1e-3 * rng.standard_normal(count)
    named = {
        "log_prob": rng.standard_normal(count),
        "value": rng.standard_normal(count),
        "x": x,
        "y": x + apart,
        "z": apart * rng.standard_normal(count),
    }
    return {name: value.astype(dtype) for name, value in named.items()}


def ratios(estimator, named, computed):
    """Return the largest error of cotangents in units of the surrogate's bound, by quantity."""
    dtype = named["x"].dtype
    ones = np.ones(len(named["x"]), dtype)
    surrogate: Any = SimpleNamespace(estimator=estimator, weights=ones)
    sides = []
    for lift in (reference.extended, bounded_in(dtype)):
        inputs = {name: lift(value) for name, value in named.items()}
        sides.append(loss_cotangents(surrogate, inputs, lift(ones)))
    exact, bound = sides
    return {
        name: largest(value, exact[name], allowance(bound[name], dtype), dtype)[0]
        for name, value in computed.items()
    }


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("label", CANCELLING)
def test_a_term_that_nearly_cancels_is_rounded_as_its_surrogate(label, dtype):
    estimator = Formula(CANCELLING[label])
    for seed in range(10):
        named = arrays(seed, dtype)
        worst = ratios(estimator, named, derive(estimator).cotangents(**named))
        assert max(worst.values()) <= FACTOR, (label, worst)


def test_a_sum_that_is_multiplied_out_is_found():
    estimator = Formula(CANCELLING["a sum in a square"])
    named = arrays(0, "float64")
    shown = compile_expressions(derive(estimator).expressions)(named)
    assert ratios(estimator, named, {"value": shown["value"]})["value"] > 1000


@pytest.mark.parametrize("label", variants("estimators"))
def test_the_computed_formulas_are_those_that_are_shown(label):
    derivation = derive(variants("estimators")[label])
    named = points(derivation, np.random.default_rng(0), 300)
    computed = derivation.cotangents(**named)
    with np.errstate(all="ignore"):
        shown = compile_expressions(derivation.expressions, derivation.rows)(named)
    for name, value in computed.items():
        expected = np.asarray(shown[name])
        if 0 < expected.ndim < value.ndim:
            expected = expected[:, None]
        np.testing.assert_allclose(value, np.broadcast_to(expected, value.shape), rtol=1e-17)


def test_functions_of_long_differences_are_derived():
    # SymPy's own tanh never ends here.
    estimator = Formula(lambda xp, p, v, x, y, z: xp.tanh((x - y) - (z - v)) * p)
    text = derive(estimator).text
    assert text["log_prob"] == "tanh(x - y - (z - value))"
    assert text["value"] == "log_prob*(1 - tanh(x - y - (z - value))**2)"
