"""Parameters: named float arrays that a backend owns, and the flat vectors that they are written as."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data.spec import PolicySpec
from pgcore.errors import NonFiniteError, PgcoreError
from pgcore.interfaces.copying import Copied
from pgcore.validation.arrays import Array, first_not_finite

__all__ = ["Layout", "Parameters", "flat"]


class Layout:
    """The places of named arrays in one flat vector, in canonical order, each in C order."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Lay the arrays out."""
        self.shapes = dict(shapes)
        self.places: dict[str, slice] = {}
        self.size = 0  # D, the length of the vector
        for name, shape in self.shapes.items():
            start, self.size = self.size, self.size + math.prod(shape)
            self.places[name] = slice(start, self.size)

    def named(self, vector: Any) -> dict[str, Any]:
        """Return the arrays of a [D] vector by name, as views where its type has views."""
        shapes = self.shapes
        return {name: vector[place].reshape(shapes[name]) for name, place in self.places.items()}


class Parameters(Copied, ABC):
    """A policy's `D` numbers, in arrays with canonical names; gradients are taken by them."""

    left_out: ClassVar[frozenset[str]] = frozenset({"layout", "names", "size"})
    spec: PolicySpec  # the architecture, with the arrays' names, order and shapes
    dtype: np.dtype[Any]  # NumPy's float32 or float64

    @cached_property
    def layout(self) -> Layout:
        """The places of the parameters in a flat vector."""
        return Layout(self.spec.parameter_shapes)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters, in canonical order."""
        return tuple(self.layout.shapes)

    @cached_property
    def size(self) -> int:
        """D, the number of parameters."""
        return self.layout.size

    @abstractmethod
    def parameters(self) -> dict[str, Array]:
        """Return every parameter by canonical name, of the policy's dtype; the caller owns the arrays."""

    @abstractmethod
    def load(self, parameters: Mapping[str, ArrayLike]) -> None:
        """Replace every parameter; on an error none is changed.

        Raises:
            ParameterError: names, shapes or values are not the spec's.
        """

    def check_unread(self) -> None:
        """Raise the NonFiniteError of a gradient or a step on a device that has not been read yet.

        Elsewhere such an error is raised at once, so that there is none.
        """

    def check_finite(self, where: str, error: type[PgcoreError] = NonFiniteError) -> None:
        """Raise `error`, naming the parameter, unless all are finite."""
        bad = first_not_finite(self.parameters())
        if bad is not None:
            raise error(
                f"{where}: expected finite parameters, got NaN or infinity in {bad}; "
                "load a good checkpoint, and look for what made it so"
            )


def flat(named: Mapping[str, Any]) -> Any:
    """Return all entries in one vector, in the mapping's order; arrays are NumPy's or work with it."""
    return np.concatenate([value.reshape(-1) for value in named.values()])
