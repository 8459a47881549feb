"""Integrals over a head's continuous actions: their support, their measure and the quadrature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from pgcore.errors import DependencyError, ShapeError
from pgcore.heads import Head
from pgcore.validation.arrays import Array
from pgcore.xp.numpy import host

__all__ = ["MOST_DIMENSIONS", "Region", "density_measure", "integral", "supports"]

# Dimensions of actions that are integrated over: each multiplies the nodes by some forty.
MOST_DIMENSIONS = 2

# Absolute error at which the quadrature stops, far below the identities' tolerance.
TOLERANCE = 1e-7

# Subdivisions after which it gives up; a smooth density takes some ten.
MOST_SUBDIVISIONS = 400

# Samples from which the scale of the actions is taken.
SAMPLES = 64

# Doublings and halvings of the distance in which an end of the support is searched.
DOUBLINGS, HALVINGS = 40, 80

# The step of differences of eighth order, whose truncation is 1e-16 of a smooth function's slope,
# and their weights of the distances of 1 to 4 steps.
STEP = 5e-3
WEIGHTS = tuple(np.longdouble(n) / d for n, d in ((4, 5), (-1, 5), (4, 105), (-1, 280)))


@dataclass(frozen=True)
class Region:
    """A part of one axis for each dimension of the actions, at each step.

    Attributes:
        start: [B, n] the end that is finite: a mode.
        stop: [B, n] the other end; infinite where the support is.
        scale: [B, n] the actions' standard deviation.
    """

    start: Array
    stop: Array
    scale: Array

    def actions(self, t: Array) -> tuple[Array, Array]:
        """Return [K, B, n] actions and [K, B] their density in t, for [K, n] t in (0, 1)."""
        t = t[:, None].astype(np.longdouble)
        infinite = np.isinf(self.stop)
        length = np.where(infinite, 1.0, self.stop - self.start)
        sign = np.where(infinite, np.sign(self.stop), 1.0) * self.scale
        # t / (1 - t) reaches to infinity; a finite end is approached smoothly too.
        moved = np.where(infinite, sign * t / (1 - t), length * t * t * (3 - 2 * t))
        slope = np.where(infinite, self.scale / (1 - t) ** 2, np.abs(length) * 6 * t * (1 - t))
        return self.start + moved, slope.prod(axis=-1)


def integral(integrand: Callable[[Array], Array], regions: list[Region]) -> Array:
    """Return [B, M] the sum of a function's integrals over some regions.

    Args:
        integrand: From [K, B, n] actions to [K, B, M].
        regions: The parts of the actions.

    Raises:
        DependencyError: SciPy is too old.
    """
    cubature = load_cubature()
    total: Any = 0.0
    for region in regions:

        def transformed(t: Array, region: Region = region) -> Array:
            actions, slope = region.actions(t)
            with np.errstate(all="ignore"):
                values = integrand(actions) * slope[..., None]
            return np.where(np.isfinite(values), values, 0).astype(np.float64)

        size = region.start.shape[1]
        result = cubature(
            transformed,
            np.zeros(size),
            np.ones(size),
            rule="gk21",
            rtol=0.0,
            atol=TOLERANCE,
            max_subdivisions=MOST_SUBDIVISIONS,
        )
        total = total + result.estimate
    return total


def load_cubature() -> Any:
    """Return SciPy's adaptive quadrature in several dimensions.

    Raises:
        DependencyError: SciPy is older than 1.15.
    """
    try:
        from scipy.integrate import cubature
    except ImportError as error:
        raise DependencyError(
            "check: expected scipy 1.15 or later to integrate over continuous actions, got an "
            "older one; pip install --upgrade scipy"
        ) from error
    return cubature


def supports(head: Head, distribution: Array, other: Array | None = None) -> list[Region]:
    """Return the regions that cover a head's actions, split at modes along each axis.

    A density may have a kink at its mode, which would cost the quadrature its accuracy.

    Args:
        head: One of continuous actions.
        distribution: [B, width] float64 distribution parameters.
        other: [B, width] float64. Further ones, of which the mode counts too.
    """
    mode = np.asarray(head.mode(distribution), np.float64)
    rng = np.random.default_rng(0)
    samples = np.stack([head.sample(distribution, rng) for _ in range(SAMPLES)])
    if mode.shape != samples.shape[1:]:
        raise ShapeError(
            f"{head}.mode: expected the shape of a sample, {[*samples.shape[1:]]}, got "
            f"{[*mode.shape]}; return one action for each step"
        )
    flat = mode.reshape(len(mode), -1)
    scale = np.asarray(samples, np.float64).std(axis=0).reshape(flat.shape) + np.finfo(float).tiny
    lowest, highest = (
        np.stack([*edges(head, distribution, mode, sign)], 1) for sign in (-1.0, 1.0)
    )
    modes = [flat]
    if other is not None:
        further = np.asarray(head.mode(other), np.float64).reshape(flat.shape)
        modes.append(np.clip(further, lowest, highest))
    low, high = np.minimum.reduce(modes), np.maximum.reduce(modes)
    # Outwards from the modes, and between them.
    sides = [(low, lowest), (high, highest), *([(low, high)] if other is not None else [])]
    regions: list[Region] = []
    for corner in product(sides, repeat=flat.shape[1]):
        start, stop = (
            np.stack([side[end][:, axis] for axis, side in enumerate(corner)], 1) for end in (0, 1)
        )
        regions.append(Region(start, stop, scale))
    return regions


def edges(head: Head, distribution: Array, mode: Array, sign: float) -> Iterator[Array]:
    """Yield for each dimension [B] ends of the support in one direction, perhaps infinite.

    The support ends where the log-density is no finite number any more, as log 0 is.

    Args:
        head: The head.
        distribution: [B, width] float64.
        mode: [B, ...] a point of the support.
        sign: 1 or -1.
    """
    flat = mode.reshape(len(mode), -1)
    for axis in range(flat.shape[1]):

        def inside(distance: Array, axis: int = axis) -> Array:
            moved = flat.copy()
            moved[:, axis] += sign * distance
            with np.errstate(all="ignore"):
                density = head.log_prob(host, distribution, moved.reshape(mode.shape))
            return np.isfinite(density)

        within, beyond = np.zeros(len(flat)), np.full(len(flat), np.inf)
        for power in range(-DOUBLINGS // 2, DOUBLINGS):
            distance = np.full(len(flat), 2.0**power)
            possible = inside(distance) & np.isinf(beyond)
            within = np.where(possible, distance, within)
            beyond = np.where(possible | np.isfinite(beyond), beyond, distance)
        ended = np.isfinite(beyond)
        for _ in range(HALVINGS if ended.any() else 0):
            middle = np.where(ended, (within + beyond) / 2, 0.0)
            possible = inside(middle)
            within = np.where(ended & possible, middle, within)
            beyond = np.where(ended & ~possible, middle, beyond)
        yield flat[:, axis] + sign * np.where(ended, beyond, np.inf)


def density_measure(head: Head) -> Callable[[Array], Array | float]:
    """Return the measure of an action in which the head's log-probabilities are densities.

    That of a bounded head is the environment's: |det d environment_actions / d action|.
    """
    if not head.bounded:
        return lambda _actions: 1.0

    def measure(actions: Array) -> Array:
        size = actions.shape[-1]
        columns = [slope(head.environment_actions, actions, axis) for axis in range(size)]
        jacobian = np.stack(columns, -1).astype(np.float64)
        return np.abs(np.linalg.det(jacobian))

    return measure


def slope(function: Callable[[Array], Array], x: Array, axis: int) -> Array:
    """Return the derivative of a function along one axis, by differences of eighth order."""
    step = np.zeros(x.shape[-1], np.longdouble)
    step[axis] = STEP
    parts = [
        weight * (function(x + k * step) - function(x - k * step))
        for k, weight in enumerate(WEIGHTS, 1)
    ]
    return sum(parts[1:], parts[0]) / np.longdouble(STEP)
