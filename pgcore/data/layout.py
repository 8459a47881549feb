"""Layouts: the places of flat steps in arrays of another shape, and the way there and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pgcore.errors import FileError, ShapeError
from pgcore.validation.arrays import Array, is_host, read_only

__all__ = ["Layout", "saved_layout"]


@dataclass(frozen=True, eq=False)
class Layout:
    """The place of each of `B` flat steps in the caller's arrays.

    Attributes:
        shape: Of the caller's arrays, such as (T, N) or (E, T).
        positions: [B] integer. The index of each step in an array of that shape in C order.

    Example:
        >>> layout = Layout((2, 3), np.array([0, 1, 3]))
        >>> layout.spread(np.array([7.0, 8.0, 9.0])).tolist()
        [[7.0, 8.0, 0.0], [9.0, 0.0, 0.0]]
        >>> layout.flat(np.arange(6).reshape(2, 3)).tolist()
        [0, 1, 3]
    """

    shape: tuple[int, ...]
    positions: Array

    def __post_init__(self) -> None:
        """Freeze the positions."""
        read_only(self.positions)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Freeze the positions again, which `pickle` and `copy` return writable."""
        self.__dict__.update(state)
        read_only(self.positions)

    def flat(self, array: Array) -> Array:
        """Return [B, ...] the steps' entries of an array of the layout's shape.

        Args:
            array: [*shape, ...] NumPy array.

        Raises:
            ShapeError: its first axes are not the layout's.
        """
        axes = len(self.shape)
        if array.shape[:axes] != self.shape:
            raise ShapeError(
                f"Layout.flat: expected an array of shape {[*self.shape, '...']}, got "
                f"{list(array.shape)}; pass one laid out as the episodes were"
            )
        return array.reshape(-1, *array.shape[axes:])[self.positions]

    def spread(self, flat: Array, fill: float = 0) -> Array:
        """Return [*shape, ...] an array with each step's row in its place.

        Args:
            flat: [B, ...] NumPy array.
            fill: The entry of places without a step, of the array's dtype.

        Raises:
            ShapeError: there is not one row for each step.
        """
        if flat.ndim == 0 or len(flat) != len(self.positions):
            raise ShapeError(
                f"Layout.spread: expected {len(self.positions)} rows, one for each step, got shape "
                f"{list(flat.shape)}; pass an array of these episodes"
            )
        trailing = flat.shape[1:]
        if is_host(flat):
            result = np.full((math.prod(self.shape), *trailing), fill, flat.dtype)
            result[self.positions] = flat
        else:
            result = np.concatenate([flat, np.full_like(flat[:1], fill)])[self._sources]
        return result.reshape(*self.shape, *trailing)

    @cached_property
    def _sources(self) -> Array:
        """[prod(shape)] integer. The number of the step at each place, and B where there is none."""
        sources = np.full(math.prod(self.shape), len(self.positions))
        sources[self.positions] = np.arange(len(self.positions))
        return read_only(sources)

    @cached_property
    def steps(self) -> Array:
        """[*shape] bool, True at places with a step."""
        return read_only(self.spread(np.ones(len(self.positions), np.bool_)))


def saved_layout(
    path: str | Path, shape: Array | None, positions: Array | None, steps: int
) -> Layout | None:
    """Return the layout in a file of so many steps, or raise FileError."""
    if shape is None and positions is None:
        return None
    expected = f"{path}: expected a layout of {steps} steps, got"
    if shape is None or positions is None:
        raise FileError(f"{expected} half of one; save it again")
    integers = shape.dtype.kind in "iu" and positions.dtype.kind in "iu"
    if not integers or shape.ndim != 1 or positions.shape != (steps,) or (shape < 1).any():
        raise FileError(
            f"{expected} shape {shape.dtype} {list(shape.shape)} and positions {positions.dtype} "
            f"{list(positions.shape)}; save it again"
        )
    # Python's integers cannot wrap around.
    places = math.prod(shape.tolist())
    if positions.min() < 0 or positions.max() >= places or len(np.unique(positions)) < steps:
        raise FileError(f"{expected} places twice or outside {shape.tolist()}; save it again")
    return Layout(tuple(shape.tolist()), positions.astype(np.intp, copy=False))
