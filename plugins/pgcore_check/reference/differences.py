"""Derivatives by differences and complex steps of the loss, in extended precision."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore_check.reference import reference

__all__ = ["complex_step", "directional_derivative", "random_direction"]


def random_direction(parameters: Mapping[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    """Return a direction in parameter space, of standard normal entries."""
    return {name: rng.standard_normal(value.shape) for name, value in parameters.items()}


def directional_derivative(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    surrogate: Surrogate,
    batch: Batch,
    direction: Mapping[str, Array],
    step: float = 2.0**-22,
) -> float:
    """Return the loss's derivative along a direction, by central differences.

    Two step sizes and Richardson's extrapolation leave an error of order step^4. Rounding in 80-bit
    arithmetic adds 1e-13, so that about 12 digits are right on well-scaled cases away from kinks.

    Args:
        spec: The architecture.
        parameters: Where to differentiate, by canonical name.
        surrogate: The estimator with its signals and weights, held constant.
        batch: The steps.
        direction: By canonical name.
        step: The larger step size.
    """

    def loss_at(distance: float) -> np.longdouble:
        moved = {
            name: reference.extended(value) + distance * direction[name]
            for name, value in parameters.items()
        }
        return reference.loss(spec, moved, surrogate, batch)

    def slope(size: float) -> np.longdouble:
        return (loss_at(size) - loss_at(-size)) / (2 * np.longdouble(size))

    # Richardson's extrapolation: the errors of order step^2 cancel.
    return float((4 * slope(step / 2) - slope(step)) / 3)


def complex_step(
    spec: PolicySpec,
    parameters: Mapping[str, Array],
    surrogate: Surrogate,
    batch: Batch,
    direction: Mapping[str, Array],
    step: float = 1e-20,
) -> np.longdouble:
    """Return the loss's derivative along a direction v as Im loss(theta + i h v) / h.

    Nothing is subtracted, so nothing cancels: it is right to the last digits of 80-bit arithmetic.
    Comparisons and magnitudes may choose between branches, but must not be part of the result. An
    `abs` or a norm in the loss is not analytic; use `directional_derivative` there.

    Args:
        spec: The architecture.
        parameters: Where to differentiate, by canonical name.
        surrogate: The estimator with its signals and weights, held constant.
        batch: The steps.
        direction: By canonical name.
        step: h; its square must vanish beside 1, and it must not underflow within the loss.
    """

    def complex_(array: Array) -> Array:
        return np.asarray(array, np.clongdouble)

    moved = {
        name: complex_(value) + 1j * np.longdouble(step) * direction[name]
        for name, value in parameters.items()
    }
    return reference.loss(spec, moved, surrogate, batch, lift=complex_).imag / np.longdouble(step)
