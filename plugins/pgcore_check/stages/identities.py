"""Identities that every distribution of actions meets, at random distribution parameters of a head.

The probabilities add up to 1, the score has mean 0, and the Fisher information is the mean of the
products of two scores. Entropy and KL are means of log-probabilities. Scores are derivatives by the
network's outputs and the head's own parameters, along all of them or, where they are many, along
random directions. Finitely many actions are summed over, continuous ones integrated over.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from pgcore.autodiff.fisher import ACTIONS, WEIGHTS, has_closed_form, quadrature
from pgcore.errors import SpecError
from pgcore.heads import Head
from pgcore.heads.head import MOST_LISTED
from pgcore.validation.arrays import Array
from pgcore_check.bounds.forward_mode import Dual, constant, forward_mode
from pgcore_check.bounds.numbers import numbers
from pgcore_check.cases.cases import alternatives, random_mask
from pgcore_check.stages.integration import MOST_DIMENSIONS, density_measure, integral, supports

__all__ = ["INTEGRAL", "SUM", "Identity", "identities", "obstacle"]

# Largest error of a sum over all actions, in units of the largest term. A sum of 1,024 products has
# some 1e-16 of rounding, since probabilities are computed in extended precision from doubles.
SUM = 1e-12

# The same for an integral, whose quadrature is adaptive.
INTEGRAL = 1e-6

# The same for a head's own `quadrature`: a coarse rule's error is allowed where weights are read.
OWN_QUADRATURE = 1e-3

# Standard deviation of the outputs, and of the head's own parameters beside their initial values.
SPREAD = 0.5

# Steps with distribution parameters of their own; an integral is adapted to all of them at once.
STEPS = {"sum": 6, "integral": 2}

# Directions in which scores are taken where outputs and parameters are more.
MOST_DIRECTIONS = 8

# Numbers in the derivatives of one evaluation: more actions are summed in parts.
MOST_NUMBERS = 2_000_000

# The identity of masked actions.
MASKED = "probability of masked actions"

# From [K, B, ...] actions and the measure of each, [K, B] or a number, to [K, B, M] terms.
Terms = Callable[[Array, Array | float], Array]

# The remedy for a head that is too large.
ADVICE = "give a smaller variant by the hook pgcore_proofs"


@dataclass(frozen=True)
class Identity:
    """One identity of a head, at its worst entry.

    Attributes:
        name: "sum of probabilities", "integral of the density", "mean score", "Fisher information",
            "entropy", "KL" or "probability of masked actions".
        error: The largest error in units of the tolerance; NaN where there is no number.
        where: The step of the entry, and its direction or directions.
        values: The expected and the actual value.
    """

    name: str
    error: float
    where: str
    values: str

    @property
    def holds(self) -> bool:
        """Whether the error is within the tolerance; NaN never is."""
        return self.error <= 1


@dataclass(frozen=True)
class Point:
    """Distribution parameters with their derivatives.

    Attributes:
        head: The head.
        distribution: [B, width] with D directions.
        directions: [D] their names.
        other: [B, width] further distribution parameters, the second argument of a KL.
    """

    head: Head
    distribution: Dual
    directions: tuple[str, ...]
    other: Array

    @property
    def values(self) -> Array:
        """[B, width] float64 distribution parameters."""
        return np.asarray(self.distribution.value, np.float64)

    @property
    def steps(self) -> int:
        """B."""
        return len(self.distribution)

    def moments(self, actions: Array) -> tuple[Array, Array]:
        """Return [K, B] log-probabilities and [D, K, B] scores of [K, B, ...] actions."""
        shape, (rows, flat) = actions.shape[:2], flattened(actions)
        taken = flat if self.head.discrete else constant(flat.astype(np.longdouble))
        log_prob = self.head.log_prob(forward_mode, self.distribution[rows], taken)
        slopes = np.broadcast_to(
            log_prob.slopes, (self.distribution.slopes.shape[0], math.prod(shape))
        )
        return log_prob.value.reshape(shape), slopes.reshape(-1, *shape)

    def expectation(self, actions: Array, weights: Array | float) -> Array:
        """Return [K, B, 1 + D + D D] weighed probabilities, times 1, score and products of scores.

        Args:
            actions: [K, B, ...].
            weights: [K, B] or a number: the measure of each action.
        """
        log_prob, scores = self.moments(actions)
        density = np.exp(log_prob) * weights
        # An impossible action has no finite score, and takes no part.
        possible = density > 0
        density, scores = np.where(possible, density, 0), np.where(possible, scores, 0)
        products = scores[:, None] * scores[None, :]
        factors = np.concatenate(
            [np.ones((1, *density.shape)), scores, products.reshape(-1, *density.shape)]
        )
        return np.moveaxis(density * factors, 0, -1)

    def logarithms(self, actions: Array, weights: Array | float) -> Array:
        """Return [K, B, 2] weighed p times -log p and log p - log q; see `expectation`.

        p is the distribution, and q the other one.
        """
        rows, flat = flattened(actions)
        log_p, log_q = (
            self.head.log_prob(numbers, distribution[rows], flat).reshape(actions.shape[:2])
            for distribution in (self.distribution.value, self.other)
        )
        density = np.exp(log_p) * weights
        # 0 log 0 is 0.
        possible = density > 0
        logs = (np.where(possible, row, 0) for row in (-log_p, log_p - log_q))
        return np.stack([np.where(possible, density, 0) * row for row in logs], -1)

    def divergences(self) -> dict[str, Array]:
        """Return [B] the head's own entropy, and its KL to the other distribution, if it has them."""
        values: dict[str, Array] = {}
        if "entropy" in self.head.quantities:
            values["entropy"] = self.head.entropy(numbers, self.distribution.value)
        if "kl" in self.head.quantities:
            values["KL"] = self.head.kl(numbers, self.distribution.value, self.other)
        return values

    def fisher(self) -> Array | None:
        """Return [B, D, D] J^T F J of the head's own Fisher information; None without one."""
        if not has_closed_form(self.head):
            return None
        slopes = self.distribution.slopes
        directions: list[Array] = []
        for tangent in slopes:
            product = self.head.fisher(numbers, self.distribution.value, tangent)
            # Masked actions have no derivative, and 0 times an infinite entry is NaN.
            along = np.where(slopes == 0, 0, slopes * np.asarray(product)).sum(axis=2)
            directions.append(along)
        return np.moveaxis(np.stack(directions), 2, 0)

    def summed_fisher(self) -> Array | None:
        """Return [B, D, D] the same by the head's own `quadrature`; None without one."""
        if self.head.discrete:
            return None
        try:
            points = quadrature(self.head, self.values, np.dtype(np.float64))
        except SpecError:
            return None
        actions, weights = (np.swapaxes(points[name], 0, 1) for name in (ACTIONS, WEIGHTS))
        _, scores = self.moments(actions)
        weighed = np.where(weights > 0, scores, 0) * weights
        return np.einsum("ikb,jkb->bij", weighed, np.where(weights > 0, scores, 0))


def flattened(actions: Array) -> tuple[Array, Any]:
    """Return [K B] the steps of [K, B, ...] actions, and the actions as [K B, ...]."""
    count, steps = actions.shape[:2]
    rows: Array = np.concatenate([np.arange(steps)] * count)
    return rows, actions.reshape(count * steps, *actions.shape[2:])


def obstacle(head: Head) -> str:
    """Return why the identities of a head cannot be tried, "" where they can."""
    if head.discrete:
        counts = [len(columns) for columns in alternatives(head)]
        if not counts or math.prod(counts) > MOST_LISTED:
            number = f"{math.prod(counts):,}" if counts else "actions that cannot be listed"
            return f"expected at most {MOST_LISTED:,} actions to sum over, got {number}; {ADVICE}"
        return ""
    size = int(np.prod(sampled(head).shape[1:]))
    if size > MOST_DIMENSIONS:
        return (
            f"expected at most {MOST_DIMENSIONS} dimensions to integrate over, got {size}; {ADVICE}"
        )
    return ""


def sampled(head: Head) -> Array:
    """Return actions of a head at some distribution parameters of its own."""
    point = point_of(head, None, np.random.default_rng(0), STEPS["integral"])
    return np.asarray(head.sample(point.values, np.random.default_rng(0)))


def identities(head: Head, seed: int = 0) -> list[Identity]:
    """Return the identities of a head, in the order in which one rests on another.

    Args:
        head: One without an `obstacle`.
        seed: Of the distribution parameters.
    """
    # Impossible actions have log-probabilities of -inf, of which derivatives may be NaN.
    with np.errstate(all="ignore"):
        if head.discrete:
            return [*sums(head, seed)]
        point = point_of(head, None, np.random.default_rng(seed), STEPS["integral"])
        return [
            *compared(point, integrated(point, point.expectation), INTEGRAL),
            *compared_logarithms(point, partial(integrated_logarithms, point), INTEGRAL),
        ]


def sums(head: Head, seed: int) -> Iterator[Identity]:
    """Yield the identities of a discrete head, first without and then with masked actions."""
    rng, steps = np.random.default_rng(seed), STEPS["sum"]
    for mask in (None, random_mask(head, steps, rng)):
        point = point_of(head, mask, rng, steps)
        yield from compared(point, summed(point, point.expectation), SUM)
        yield from compared_logarithms(point, partial(summed, point, point.logarithms), SUM)
        if mask is not None:
            total = summed(point, partial(masked_probabilities, point, mask))
            yield identity(MASKED, (), total, np.zeros_like(total), SUM)


def masked_probabilities(point: Point, mask: Array, actions: Array, _: Any) -> Array:
    """Return [K, B, 1] probabilities of [K, B, ...] actions that a mask excludes, 0 of others."""
    rows, flat = flattened(actions)
    possible = np.ones(len(rows), np.bool_)
    for columns, alternative in zip(
        alternatives(point.head), flat.reshape(len(rows), -1).T, strict=True
    ):
        possible &= mask[rows, np.array(columns)[alternative]]
    probability = np.exp(point.head.log_prob(numbers, point.distribution.value[rows], flat))
    return np.where(possible, 0, probability).reshape(*actions.shape[:2], 1)


def point_of(head: Head, mask: Array | None, rng: np.random.Generator, steps: int) -> Point:
    """Return random distribution parameters of a head, with directions; see `identities`.

    Args:
        head: The head.
        mask: [B, width] bool, or None.
        rng: Source of outputs, parameters and directions.
        steps: B.
    """
    values = {"": SPREAD * rng.standard_normal((steps, head.outputs))}
    for name, value in head.initial_parameters().items():
        values[name] = value + SPREAD * rng.standard_normal(np.shape(value))
    # A direction moves one output of every step, or one entry of a parameter, or some of all.
    sizes = [head.outputs, *(np.size(values[name]) for name in values if name)]
    total = sum(sizes)
    unit = np.eye(total)
    names = [f"output {i}" for i in range(head.outputs)]
    names += [
        f"{name}{list(index)}"
        for name in values
        if name
        for index in np.ndindex(values[name].shape)
    ]
    if total > MOST_DIRECTIONS:
        unit = rng.standard_normal((MOST_DIRECTIONS, total))
        names = [f"direction {i}" for i in range(MOST_DIRECTIONS)]
    moved: dict[str, Dual] = {}
    parts = np.split(unit, np.cumsum(sizes)[:-1], axis=1)
    for (name, value), part in zip(values.items(), parts, strict=True):
        slopes = np.repeat(part[:, None], steps, axis=1) if name == "" else part
        exact = value.astype(np.longdouble)
        moved[name] = Dual(exact, slopes.reshape(-1, *value.shape).astype(np.longdouble))
    distribution = head.distribution(forward_mode, moved.pop(""), moved, mask)
    slopes = np.broadcast_to(distribution.slopes, (len(unit), *distribution.shape))
    further = {
        name: constant((value + SPREAD * rng.standard_normal(value.shape)).astype(np.longdouble))
        for name, value in values.items()
    }
    other = head.distribution(forward_mode, further.pop(""), further, mask).value
    return Point(head, Dual(distribution.value, slopes), tuple(names), other)


def summed(point: Point, terms: Terms) -> Array:
    """Return [B, M] sums of some terms over all actions."""
    counts = [len(columns) for columns in alternatives(point.head)]
    actions = np.indices(counts).reshape(len(counts), -1).T
    if point.head.enumerable:
        actions = actions[:, 0]
    step_numbers = point.steps * math.prod(point.distribution.slopes.shape[::2])
    size = max(MOST_NUMBERS // step_numbers, 1)
    total: Array = np.zeros(1)
    for start in range(0, len(actions), size):
        part = actions[start : start + size]
        every = np.repeat(part[:, None], point.steps, axis=1)
        total = total + terms(every, 1.0).sum(axis=0)
    return total


def integrated(point: Point, terms: Terms, other: Array | None = None) -> Array:
    """Return [B, M] integrals of some terms over all actions; see `supports`."""
    head = point.head
    regions = supports(head, point.values, other)
    measure = density_measure(head)

    shape = sampled(head).shape[1:]

    def integrand(actions: Array) -> Array:
        shaped = actions.reshape(*actions.shape[:2], *shape)
        return terms(shaped, measure(actions))

    return integral(integrand, regions)


def integrated_logarithms(point: Point) -> Array:
    """Return [B, 2] the integrals of `Point.logarithms`, in which q may have kinks of its own."""
    return integrated(point, point.logarithms, np.asarray(point.other, np.float64))


def compared(point: Point, means: Array, tolerance: float) -> list[Identity]:
    """Return the identities of the means over all actions.

    Args:
        point: The distribution parameters.
        means: [B, 1 + D + D D]; see `Point.expectation`.
        tolerance: The largest error, in units of the larger of 1 and the largest Fisher entry.
    """
    count = point.distribution.slopes.shape[0]
    total, scores, flat = np.split(means, [1, 1 + count], axis=1)
    products = flat.reshape(-1, count, count)
    size = np.maximum(np.abs(products).max(axis=(1, 2), initial=0), 1)
    name = "sum of probabilities" if point.head.discrete else "integral of the density"
    rows = [
        identity(name, (), total, np.ones_like(total), tolerance),
        identity(
            "mean score",
            point.directions,
            scores,
            np.zeros_like(scores),
            tolerance * np.sqrt(size)[:, None],
        ),
    ]
    for fisher, allowed in ((point.fisher(), tolerance), (point.summed_fisher(), OWN_QUADRATURE)):
        if fisher is not None:
            unit = allowed * size[:, None, None]
            rows.append(identity("Fisher information", point.directions, fisher, products, unit))
            break
    return rows


def compared_logarithms(
    point: Point, mean: Callable[[], Array], tolerance: float
) -> Iterator[Identity]:
    """Yield the identities of the entropy and of the KL, of a head that has them.

    Args:
        point: The distribution parameters.
        mean: Returns the [B, 2] sums or integrals of `Point.logarithms`.
        tolerance: The largest error, in units of the larger of 1 and the number.
    """
    divergences = point.divergences()
    if not divergences:
        return
    for name, expected in zip(("entropy", "KL"), mean().T, strict=True):
        if name in divergences:
            unit = tolerance * np.maximum(np.abs(expected), 1)
            yield identity(name, (), divergences[name], expected, unit)


def identity(
    name: str, directions: tuple[str, ...], actual: Array, expected: Array, unit: Array | float
) -> Identity:
    """Return one identity at its worst entry.

    Args:
        name: Its name.
        directions: [D] their names; () for an identity without directions.
        actual: [B, D, ...].
        expected: The same shape.
        unit: The largest errors that are allowed, of a shape that broadcasts.
    """
    error = np.abs(actual - expected) / unit
    # Both may be infinite, as the KL to a distribution that excludes an action.
    error = np.where(actual == expected, 0, np.where(np.isfinite(error), error, np.inf))
    place = np.unravel_index(int(error.argmax()), error.shape)
    step, *axes = (int(index) for index in place)
    where = f"{name} at step {step}"
    if directions:
        where += f", {' and '.join(directions[axis] for axis in axes)}"
    values = f"expected {float(expected[place]):.9g}, got {float(actual[place]):.9g}"
    return Identity(name, float(error[place]), where, values)
