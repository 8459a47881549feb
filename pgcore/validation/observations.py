"""Observations: one array, or arrays by name, which a batch holds as one structured array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import Array, is_constant, owned_numbers, read_only

__all__ = ["ObservationsLike", "by_name", "layout_of", "owned_observations", "same_layout"]

# What observations may be: one array, or arrays by name.
ObservationsLike = ArrayLike | Mapping[str, ArrayLike]


def owned_observations(
    where: str, value: ObservationsLike, axes: int = 1, *, copied: bool = True
) -> Array:
    """Return a read-only array of observations; of arrays by name a structured one, names sorted.

    An immutable structured array that is like the result already is returned itself.

    A structured array is indexed by rows as any other is, and by a name gives that array.

    Args:
        where: The array's name, for errors.
        value: Anything that NumPy can read as numbers, a mapping from names to such, or a structured array.
        axes: Number of axes that the arrays of a mapping share, such as 2 of [T, N, ...].
        copied: See `owned_numbers`.

    Raises:
        ShapeError: arrays of different first axes, or see `owned_numbers`.
        BatchError: an empty mapping, a name that is no string, a list of mappings whose names differ,
            or see `owned_numbers`.

    Example:
        >>> array = owned_observations("x", {"image": [[1, 2]], "goal": [0.5]})
        >>> array.shape, array.dtype.names, array["image"].tolist()
        ((1,), ('goal', 'image'), [[1, 2]])
    """
    if type(value) is np.ndarray and is_laid_out(cast("Array", value), axes):
        array = cast("Array", value)
        if is_constant(array):
            return array
        if not copied:
            return read_only(array.view())
    fields = named_fields(where, value)
    if fields is None:
        return owned_numbers(where, cast("ArrayLike", value), copied=copied)
    if not fields or not all(isinstance(name, str) and name for name in fields):
        raise BatchError(
            f"{where}: expected arrays by name, got the names {[*fields]}; pass a dict from strings "
            "to arrays"
        )
    arrays = {
        name: owned_numbers(f"{where}[{name!r}]", fields[name], copied=False)
        for name in sorted(fields)
    }
    first = next(iter(arrays))
    shape = arrays[first].shape[:axes]
    for name, array in arrays.items():
        if array.ndim < axes or array.shape[:axes] != shape:
            raise ShapeError(
                f"{where}[{name!r}]: expected shape {[*shape, '...']}, as {first!r} has, got "
                f"{list(array.shape)}; lay all of them out alike"
            )
    kinds = [(name, array.dtype, array.shape[axes:]) for name, array in arrays.items()]
    result = np.empty(shape, np.dtype(kinds))
    for name, array in arrays.items():
        result[name] = array
    return read_only(result)


def is_laid_out(array: Array, axes: int) -> bool:
    """Whether an array has the dtype and the axes of `owned_observations` of arrays by name."""
    names = array.dtype.names
    if not names or array.ndim != axes or list(names) != sorted(names):
        return False
    kinds = [array.dtype[name].base for name in names]
    # Gaps between the fields would be kept as well.
    packed = sum(array.dtype[name].itemsize for name in names) == array.dtype.itemsize
    return packed and all(
        kind.kind in "biuf" and kind.isnative and kind.itemsize <= 8 for kind in kinds
    )


def named_fields(where: str, value: Any) -> dict[Any, Any] | None:
    """Return the arrays of a mapping, of a list of mappings or of a structured array by name, else None.

    Raises:
        BatchError: a mapping of a list has other names than the first.
    """
    if isinstance(value, np.ndarray):
        names = cast("Array", value).dtype.names
        return None if names is None else {name: value[name] for name in names}
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    rows = cast("list[Any]", value) if isinstance(value, list) else []
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        return None
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise BatchError(
                f"{where}: expected the names {[*rows[0]]} in every row, as row 0 has, got {[*row]} "
                f"in row {number}; give all rows the same arrays"
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def by_name(array: Array) -> dict[str, Array]:
    """Return the arrays of a structured array; of any other that one, with the name ""."""
    names = array.dtype.names
    return {"": array} if names is None else {name: array[name] for name in names}


def same_layout(left: Array, right: Array) -> bool:
    """Whether the rows of both have one shape; by name where there are several arrays."""
    names = left.dtype.names
    if names != right.dtype.names or left.shape[1:] != right.shape[1:]:
        return False
    return all(left.dtype[name].shape == right.dtype[name].shape for name in names or ())


def layout_of(array: Array, rows: int | None = None) -> str:
    """Return the shape of a row, or of so many rows; by name where there are several arrays."""
    first = [] if rows is None else [rows]
    shapes = {name: [*first, *x.shape[1:]] for name, x in by_name(array).items()}
    return str(shapes.get("", shapes))
