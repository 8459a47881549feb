"""Arrays coming in from outside: converted, owned, checked, made read-only.

Every check names the array and, where there is one, the first offending step or episode.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pgcore.errors import BatchError, ShapeError

__all__ = [
    "Array",
    "check_finite",
    "check_length",
    "first_not_finite",
    "first_row",
    "owned_booleans",
    "owned_numbers",
    "read_only",
    "row_not_finite",
]

Array = NDArray[Any]


def owned_numbers(where: str, value: ArrayLike, dimensions: tuple[int, ...] = ()) -> Array:
    """Return a read-only array of real numbers: the one given where nobody can write to it, else a copy.

    Numbers wider than float64 are rounded to it, and the bytes are in the machine's order.

    Raises:
        ShapeError: ragged, or not of one of the numbers of dimensions given.
        BatchError: not real numbers, or a masked array.
    """
    array = _owned(where, value)
    if array.dtype.kind not in "biuf":
        raise BatchError(
            f"{where}: expected real numbers, got dtype {array.dtype}; convert the array first"
        )
    if array.dtype.itemsize > 8 or not array.dtype.isnative:
        with np.errstate(
            over="ignore"
        ):  # what overflows is infinite, and `check_finite` says where
            array = read_only(
                array.astype(
                    np.float64 if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")
                )
            )
    if dimensions and array.ndim not in dimensions:
        wanted = " or ".join(f"{n}-dimensional" for n in dimensions)
        raise ShapeError(
            f"{where}: expected a {wanted} array, got shape {list(array.shape)}; flatten the episodes into one array of steps"
        )
    return array


def owned_booleans(where: str, value: ArrayLike, dimensions: int) -> Array:
    """Return a read-only bool array; 0 and 1 are taken for False and True.

    Raises:
        ShapeError: ragged, or not of that number of dimensions.
        BatchError: values other than True, False, 0 and 1.
    """
    array = owned_numbers(where, value, (dimensions,))
    if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
        raise BatchError(
            f"{where}: expected booleans, got dtype {array.dtype} with other values than 0 and 1; compare first"
        )
    return read_only(array.astype(np.bool_, copy=False))


def read_only(array: Array) -> Array:
    """Make an array that pgcore owns read-only and return it."""
    array.flags.writeable = False
    return array


def check_length(where: str, array: Array, length: int, noun: str) -> None:
    """Raise ShapeError unless the array has that many rows."""
    if len(array) != length:
        raise ShapeError(
            f"{where}: expected {length} rows, one for each {noun}, got shape {list(array.shape)}; check how it was gathered"
        )


def check_finite(where: str, array: Array, noun: str = "step") -> None:
    """Raise BatchError at the first row that holds NaN or infinity."""
    row = row_not_finite(array)
    if row is None:
        return
    bad = "NaN" if np.isnan(array[row]).any() else "infinity"
    raise BatchError(
        f"{where}: expected finite numbers, got {bad} at {noun} {row}; find where it came from and drop or mend that {noun}"
    )


def row_not_finite(array: Array) -> int | None:
    """Return the number of the first row that holds NaN or infinity, None where all rows are finite."""
    if array.dtype.kind != "f":
        return None
    finite = np.isfinite(array)
    return None if finite.all() else first_row(~finite)


def first_row(marks: Array) -> int:
    """Return the number of the first row of a bool array that holds True."""
    return int(marks.reshape(len(marks), -1).any(axis=1).argmax())


def first_not_finite(named: Mapping[str, Array]) -> str | None:
    """Return the name of the first array that holds NaN or infinity, None where all are finite."""
    return next((name for name, value in named.items() if not np.isfinite(value).all()), None)


def _owned(where: str, value: ArrayLike) -> Array:
    if type(value) is np.ndarray and _is_constant(cast("Array", value)):
        return cast("Array", value)
    if _has_mask(value):
        raise BatchError(
            f"{where}: expected an array without a mask, got a masked array; "
            "leave its masked rows out, or fill them with .filled(number)"
        )
    try:
        # Not every array of another library can be asked for a copy, so it is taken from what `asarray` returns.
        return read_only(np.array(np.asarray(value)))
    except ValueError as error:
        raise ShapeError(
            f"{where}: expected a rectangular array, got one that NumPy refuses ({error}); check the rows' lengths"
        ) from error
    except (TypeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise BatchError(
            f"{where}: expected an array that NumPy can read, got {type(value).__name__} ({reason}); convert it first, such as with "
            ".detach().cpu().numpy() where it has those"
        ) from error


# What `_has_mask` looks into, or for.
NESTED: tuple[type, ...] = (list, tuple, np.ma.MaskedArray)


def _has_mask(value: object, depth: int = 64) -> bool:
    """Whether the value is a masked array, or a list with one in it, as deep as NumPy goes."""
    if not isinstance(value, list | tuple):
        return isinstance(value, np.ma.MaskedArray)
    items = cast("list[object]", value)
    # Rows of plain numbers are told by their types alone, at the speed of C.
    nested = {kind for kind in set(map(type, items)) if issubclass(kind, NESTED)}
    if not nested or depth == 0:
        return False
    return any(_has_mask(item, depth - 1) for item in items if type(item) in nested)


def _is_constant(array: Array) -> bool:
    """Whether nobody can write to the array's memory.

    NumPy or a bytes object owns it then, and no array on the way to the owner is writable.
    A read-only view of another library's memory, such as a tensor's, changes with that memory.
    """
    while not array.flags.writeable:
        base: Any = array.base  # whatever owns the memory, which NumPy's annotations call an array
        if base is None:
            return array.flags.owndata
        if not isinstance(base, np.ndarray):
            return isinstance(base, bytes)
        array = cast("Array", base)
    return False
