"""Activations in place, with their derivatives."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pgcore.data import activations
from pgcore.data.activations import Activation
from pgcore.errors import SpecError
from pgcore.validation.arrays import Array
from pgcore_numpy.dispatch import changes
from pgcore_numpy.xp import xp

__all__ = ["Formula", "InPlace", "Relu", "Sigmoid", "Tanh", "make_activation"]


class InPlace(Protocol):
    """An activation of one layer; `apply` first, then any number of `multiply_derivative`."""

    def apply(self, h: Array) -> None:
        """Replace [networks, width, n] pre-activations by activations."""
        ...

    def multiply_derivative(self, d: Array, h: Array, scratch: Array) -> None:
        """Multiply d by the derivative at activations h.

        Args:
            d: [networks, width, n], or [width, n] of the first network.
            h: The activations, of the same shape.
            scratch: Of the same shape, to be overwritten.
        """
        ...


class Tanh:
    """tanh; derivative 1 - h^2."""

    @staticmethod
    def apply(h: Array) -> None:
        """See `InPlace.apply`."""
        np.tanh(h, out=h)

    @staticmethod
    def multiply_derivative(d: Array, h: Array, scratch: Array) -> None:
        """See `InPlace.multiply_derivative`."""
        # From the activations alone, so that no layer keeps its pre-activations.
        np.multiply(h, h, out=scratch)
        np.subtract(1.0, scratch, out=scratch)
        np.multiply(d, scratch, out=d)


class Relu:
    """max(x, 0); derivative 0 at 0."""

    @staticmethod
    def apply(h: Array) -> None:
        """See `InPlace.apply`."""
        np.maximum(h, 0.0, out=h)

    @staticmethod
    def multiply_derivative(d: Array, h: Array, scratch: Array) -> None:
        """See `InPlace.multiply_derivative`."""
        # h is never negative, so its sign is 1 where the unit is active, 0 elsewhere.
        np.sign(h, out=scratch)
        np.multiply(d, scratch, out=d)


class Sigmoid:
    """1 / (1 + exp(-x)); derivative h (1 - h)."""

    @staticmethod
    def apply(h: Array) -> None:
        """See `InPlace.apply`."""
        np.negative(h, out=h)
        np.exp(h, out=h)
        np.add(h, 1.0, out=h)
        np.reciprocal(h, out=h)

    @staticmethod
    def multiply_derivative(d: Array, h: Array, scratch: Array) -> None:
        """See `InPlace.multiply_derivative`."""
        np.subtract(1.0, h, out=scratch)
        np.multiply(scratch, h, out=scratch)
        np.multiply(d, scratch, out=d)


class Formula:
    """An activation that is not built in, by its class's own value and slope."""

    def __init__(self, function: Activation) -> None:
        """Keep the function."""
        self.function = function
        self.before: Array = np.empty(0)

    def apply(self, h: Array) -> None:
        """See `InPlace.apply`; the slope may need the pre-activations too."""
        self.before = h.copy()
        h[...] = self.function.value(xp, self.before)

    def multiply_derivative(self, d: Array, h: Array, scratch: Array) -> None:
        """See `InPlace.multiply_derivative`."""
        # Without a leading axis the arrays are the first network's.
        before = self.before if h.ndim == self.before.ndim else self.before[0]
        np.multiply(d, self.function.slope(xp, before, h), out=d)


# Those that run in place. They have no state, so that one object serves all layers.
BUILT_IN: dict[type[Activation], InPlace] = {
    activations.Tanh: Tanh,
    activations.Relu: Relu,
    activations.Sigmoid: Sigmoid,
}


def make_activation(function: Activation) -> InPlace:
    """Return an activation for one layer; the built-in ones keep nothing between calls.

    Raises:
        SpecError: the class inherits its slope, and changes the value that the slope belongs to.
    """
    cls = type(function)
    if cls in BUILT_IN:
        return BUILT_IN[cls]
    # A slope belongs to the value of the class that writes it.
    writer = next(base for base in cls.__mro__ if "slope" in vars(base))
    if names := changes(cls, writer, ("value",)):
        raise SpecError(
            "numpy backend: expected an activation with the slope of its value, got "
            f"{cls.__name__}, which changes {names}; write `slope` beside `value`"
        )
    return Formula(function)
