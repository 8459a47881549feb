"""Parameters: named float arrays that a backend owns, and the flat vectors that they are written as."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data.spec import PolicySpec
from pgcore.errors import NonFiniteError
from pgcore.interfaces.copying import Copied
from pgcore.validation.arrays import Array, first_not_finite

__all__ = ["Layout", "Parameters", "flat"]

# Ends every message about parameters that are not finite: only a good checkpoint brings them back.
LOAD_ANOTHER = "load a good checkpoint, and look for what made it so"


class Layout:
    """The places of named arrays in one flat vector: one after the other in canonical order, each in C order.

    Attributes:
        shapes: Of the arrays by name, in canonical order.
        places: The slice of a vector in canonical order that each array takes, by name.
        size: D, the length of the vector.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Lay the arrays out."""
        self.shapes = dict(shapes)
        ends = list(itertools.accumulate(map(math.prod, self.shapes.values()), initial=0))
        self.places = dict(
            zip(self.shapes, itertools.starmap(slice, itertools.pairwise(ends)), strict=True)
        )
        self.size = ends[-1]

    def named(self, vector: Any) -> dict[str, Any]:
        """Return the arrays of a [D] vector by name, as views where its type has views."""
        return {
            name: vector[place].reshape(self.shapes[name]) for name, place in self.places.items()
        }


class Parameters(Copied, ABC):
    """What a policy is made of and what a gradient is taken by: `D` numbers in arrays that have canonical names.

    Attributes:
        spec: The architecture, which gives the arrays their names, their order and their shapes.
        dtype: NumPy's float32 or float64.
    """

    left_out: ClassVar[frozenset[str]] = frozenset({"layout", "names", "size"})
    spec: PolicySpec
    dtype: np.dtype[Any]

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
        """Return every parameter by canonical name, as arrays of the policy's dtype that the caller owns."""

    @abstractmethod
    def load(self, parameters: Mapping[str, ArrayLike]) -> None:
        """Replace every parameter; on an error none is changed.

        Raises:
            ParameterError: names, shapes or values are not those that the spec asks for.
        """

    def check_finite(self, where: str) -> None:
        """Raise NonFiniteError, naming the parameter, unless all are finite: the first question where a result is not."""
        bad = first_not_finite(self.parameters())
        if bad is not None:
            raise NonFiniteError(
                f"{where}: expected finite parameters, got NaN or infinity in {bad}; {LOAD_ANOTHER}"
            )


def flat(named: Mapping[str, Any]) -> Any:
    """Return all entries of NumPy arrays, or of arrays that work with NumPy's functions, in one vector in the order of the mapping."""
    return np.concatenate([value.reshape(-1) for value in named.values()])
