"""Hand-written cotangents beside those derived from the surrogate: at random points, and at the ties of every choice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pgcore.interfaces.estimator import Estimator
from pgcore.validation.arrays import Array
from pgcore_derive.derivation import Derivation, derive

__all__ = ["differences", "points", "tie_points"]

NUM_ACTIONS = 3


def differences(estimator: Estimator, seed: int = 0, count: int = 400) -> dict[str, float]:
    """Return how far an estimator's cotangents are from the derived ones, relative to 1 + |value|, at worst, by quantity.

    Both are computed in `np.longdouble`, at random points and at ties; what is right is far below float64's 2e-16 times ten. Infinite
    where one is not finite and the other is, or where the quantities differ.

    Raises:
        EstimatorError: the surrogate cannot be differentiated symbolically.
    """
    derivation, rng = derive(estimator), np.random.default_rng(seed)
    worst = dict.fromkeys(estimator.quantities, 0.0)
    for given in [points(derivation, rng, count), *tie_points(derivation, rng)]:
        expected = derivation.cotangents(**given)
        with np.errstate(all="ignore"):
            found = estimator.cotangents(**given)
        if found.keys() != expected.keys():
            return dict.fromkeys(found.keys() | expected.keys(), np.inf)
        for name, value in found.items():
            worst[name] = max(worst[name], distance(value, expected[name]))
    return worst


def distance(found: Array, expected: Array) -> float:
    """Return the largest distance relative to 1 + |expected|; what is finite in neither does not count."""
    if found.shape != expected.shape:
        return np.inf
    finite = np.isfinite(expected)
    if (finite != np.isfinite(found)).any():
        return np.inf
    return float(
        (np.abs(found - expected)[finite] / (1 + np.abs(expected[finite]))).max(initial=0.0)
    )


def points(derivation: Derivation, rng: np.random.Generator, count: int) -> dict[str, Array]:
    """Return random values of everything that the surrogate takes: multiples of 1/64 in [-1, 1], some actions masked."""
    found: dict[str, Array] = {}
    for name in derivation.estimator.keywords:
        shape = (count, NUM_ACTIONS) if name in derivation.rows else (count,)
        if name == "episode":
            found[name] = np.arange(count) // 3
        elif name in derivation.indices:
            found[name] = rng.integers(0, NUM_ACTIONS, shape)
        elif name in derivation.flags:
            found[name] = rng.random(shape) < 0.5
        else:
            found[name] = (rng.integers(-64, 65, shape) / 64).astype(np.longdouble)
    if "log_probs" in found:
        masked = rng.random(count) < 0.3
        found["log_probs"][masked, rng.integers(0, NUM_ACTIONS, masked.sum())] = -np.inf
    return found


def tie_points(
    derivation: Derivation, rng: np.random.Generator, count: int = 40
) -> Iterator[dict[str, Array]]:
    """Yield points where both sides of a relation in the cotangents are equal, for each symbol that can make them so."""
    from pgcore_derive.functions import EpisodeMean, EpisodeSum, is_row, magnitude
    from pgcore_derive.library import sympy
    from pgcore_derive.program import compiled

    relations: set[Any] = set()
    for expression in derivation.expressions.values():
        relations |= expression.atoms(sympy.core.relational.Relational)
    for relation in sympy.ordered(
        each
        for each in relations
        if each.lhs.is_finite is not False and each.rhs.is_finite is not False
    ):
        for signs in (1, -1):
            # |x| = |y| is x = y or x = -y.
            # In episodes of one step, a sum over the episode is that step's.
            plain = (magnitude, EpisodeMean, EpisodeSum)
            lhs, rhs = (
                side.xreplace({each: each.args[0] for each in side.atoms(*plain)})
                for side in relation.args
            )
            gap = lhs - signs * rhs
            for symbol in sympy.ordered(gap.free_symbols):
                slope = gap.diff(symbol)
                if slope.free_symbols or slope == 0 or is_row(gap) != is_row(symbol):
                    continue
                given = points(derivation, rng, count)
                if "episode" in given:
                    given["episode"] = np.arange(count)
                root = compiled({"root": symbol - gap / slope})(given)["root"]
                given[symbol.name] = np.broadcast_to(root, given[symbol.name].shape).astype(
                    np.longdouble
                )
                sides = compiled({"lhs": relation.lhs, "rhs": relation.rhs})(given)
                equal = np.asarray(sides["lhs"] == sides["rhs"])
                ties = (
                    equal.reshape(len(equal), -1).all(axis=1)
                    if equal.ndim
                    else np.full(count, equal)
                )
                if ties.any():
                    yield {name: value[ties] for name, value in given.items()}
