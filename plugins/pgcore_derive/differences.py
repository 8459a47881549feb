"""Distances of hand-written cotangents from the derived ones, at random points and at ties."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np

from pgcore.interfaces.estimator import Estimator
from pgcore.validation.arrays import Array
from pgcore_derive.derivation import Derivation, derive
from pgcore_derive.functions import EpisodeMean, EpisodeSum, Expression, is_row, magnitude, sympy
from pgcore_derive.program import compile_expressions

__all__ = ["LIMIT", "differences", "points", "tie_points"]

# The largest distance of correct cotangents, ten times float64's resolution.
LIMIT = 2e-15

# Actions of a random point: more than 2, so that no action is another one's complement.
NUM_ACTIONS = 3


def differences(estimator: Estimator, seed: int = 0, count: int = 400) -> dict[str, float]:
    """Return the largest relative distance of an estimator's cotangents from the derived ones.

    Both are computed in `np.longdouble`, at random points and at ties. Correct cotangents are far
    below ten times float64's 2e-16.

    Args:
        estimator: An estimator with `cotangents` of its own.
        seed: Of the points.
        count: Number of random points.

    Returns:
        The distance over 1 + |value| by quantity. Infinite where one value alone is finite, or
        where the quantities differ.

    Raises:
        EstimatorError: the surrogate cannot be differentiated symbolically.
    """
    derivation, rng = derive(estimator), np.random.default_rng(seed)
    worst = dict.fromkeys(estimator.quantities, 0.0)
    for arrays in [points(derivation, rng, count), *tie_points(derivation, rng)]:
        expected = derivation.cotangents(**arrays)
        # An overflow in a branch that is not taken does no harm.
        with np.errstate(all="ignore"):
            actual = estimator.cotangents(**arrays)
        if actual.keys() != expected.keys():
            return dict.fromkeys(actual.keys() | expected.keys(), np.inf)
        for name, value in actual.items():
            worst[name] = max(worst[name], distance(value, expected[name]))
    return worst


def distance(actual: Array, expected: Array) -> float:
    """Return the largest |actual - expected| / (1 + |expected|) over the finite entries.

    Infinite where the shapes differ, or one of two entries alone is finite.
    """
    finite = np.isfinite(expected)
    if actual.shape != expected.shape or (finite != np.isfinite(actual)).any():
        return np.inf
    gaps = np.abs(actual - expected)[finite] / (1 + np.abs(expected[finite]))
    return float(gaps.max(initial=0.0))


def points(derivation: Derivation, rng: np.random.Generator, count: int) -> dict[str, Array]:
    """Return random values of the surrogate's keywords: multiples of 1/64 in [-1, 1].

    Args:
        derivation: Tells the keywords and their shapes.
        rng: Source of the values.
        count: B, the number of points.

    Returns:
        [B] or [B, A] longdouble by keyword, actions as integers and conditions as bool. Some
        actions are masked: their `log_probs` are minus infinity.
    """
    arrays: dict[str, Array] = {}
    for name in derivation.estimator.keywords:
        shape = (count, NUM_ACTIONS) if name in derivation.rows else (count,)
        if name == "episode":
            arrays[name] = np.arange(count) // 3
        elif name in derivation.indices:
            arrays[name] = rng.integers(0, NUM_ACTIONS, shape)
        elif name in derivation.flags:
            arrays[name] = rng.random(shape) < 0.5
        # On so coarse a grid sums and products are exact, and ties occur.
        else:
            arrays[name] = (rng.integers(-64, 65, shape) / 64).astype(np.longdouble)
    if "log_probs" in arrays:
        masked = rng.random(count) < 0.3
        arrays["log_probs"][masked, rng.integers(0, NUM_ACTIONS, masked.sum())] = -np.inf
    return arrays


def tie_points(
    derivation: Derivation, rng: np.random.Generator, count: int = 40
) -> Iterator[dict[str, Array]]:
    """Yield points at which both sides of a relation in the cotangents are equal.

    There is one set of points for each symbol in which the relation is linear.
    """
    for relation in finite_relations(derivation):
        for gap in linear_gaps(relation):
            for symbol in sympy.ordered(gap.free_symbols):
                slope = gap.diff(symbol)
                # gap / slope solves for the symbol only where the gap is linear in it.
                if slope.free_symbols or slope == 0 or is_row(gap) != is_row(symbol):
                    continue
                arrays = points(derivation, rng, count)
                # In episodes of one step, a sum over the episode is that step's.
                if "episode" in arrays:
                    arrays["episode"] = np.arange(count)
                root = compile_expressions({"root": symbol - gap / slope})(arrays)["root"]
                shape = arrays[symbol.name].shape
                arrays[symbol.name] = np.broadcast_to(root, shape).astype(np.longdouble)
                ties = equal_sides(relation, arrays, count)
                if ties.any():
                    yield {name: value[ties] for name, value in arrays.items()}


def finite_relations(derivation: Derivation) -> Iterator[Expression]:
    """Yield the relations in the cotangents of which no side is infinite."""
    relations: set[Any] = set()
    for expression in derivation.expressions.values():
        relations |= expression.atoms(sympy.core.relational.Relational)
    for relation in sympy.ordered(relations):
        if relation.lhs.is_finite is not False and relation.rhs.is_finite is not False:
            yield relation


def linear_gaps(relation: Expression) -> Iterator[Expression]:
    """Yield lhs - rhs and lhs + rhs, without magnitudes and sums over episodes."""
    sides: list[Expression] = []
    for side in relation.args:
        atoms = side.atoms(magnitude, EpisodeMean, EpisodeSum)
        sides.append(side.xreplace({atom: atom.args[0] for atom in atoms}))
    # |x| = |y| is x = y or x = -y.
    for sign in (1, -1):
        yield sides[0] - sign * sides[1]


def equal_sides(relation: Expression, arrays: dict[str, Array], count: int) -> Array:
    """Return [B] bool: whether both sides of a relation are equal at a step, for all actions."""
    sides = compile_expressions({"lhs": relation.lhs, "rhs": relation.rhs})(arrays)
    equal = np.asarray(sides["lhs"] == sides["rhs"])
    # Two numbers are equal at every step, or at none.
    if equal.ndim == 0:
        return np.full(count, equal)
    return cast("Array", equal.reshape(len(equal), -1).all(axis=1))
