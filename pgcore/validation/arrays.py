"""Arrays coming in from outside: converted, owned, checked by step or episode, made read-only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pgcore.errors import BatchError, ShapeError

__all__ = [
    "Array",
    "fixed",
    "is_constant",
    "is_host",
    "numbers_at",
    "owned_booleans",
    "owned_numbers",
    "read_only",
    "rows_at",
]
__all__ += ["check_finite", "check_length", "check_rows"]
__all__ += [
    "PutOff",
    "add_check",
    "booleans_in",
    "first_not_finite",
    "first_row",
    "not_finite_in",
    "put_off",
    "row_not_finite",
]

Array = NDArray[Any]


def owned_numbers(
    where: str, value: ArrayLike, dimensions: tuple[int, ...] = (), *, copied: bool = True
) -> Array:
    """Return a read-only array of real numbers: the argument if it is immutable, else a copy.

    Numbers wider than float64 are rounded to it, and the bytes are in the machine's order.

    Args:
        where: The array's name, for errors.
        value: Anything that NumPy can read.
        dimensions: Allowed numbers of dimensions; () allows any.
        copied: False returns a view where it can, for a caller that takes rows out of it at once.

    Raises:
        ShapeError: ragged, or another number of dimensions.
        BatchError: not real numbers, or a masked array.
    """
    array = _owned(where, value, copied=copied)
    if array.dtype.kind not in "biuf":  # complex numbers, strings and objects have no order
        raise BatchError(
            f"{where}: expected real numbers, got dtype {array.dtype}; convert the array first"
        )
    wide = array.dtype.itemsize > 8
    if wide or not array.dtype.isnative:
        # A number that overflows becomes infinite, and `check_finite` names its row.
        with np.errstate(over="ignore"):
            array = array.astype(np.float64 if wide else array.dtype.newbyteorder("="))
        read_only(array)
    if dimensions and array.ndim not in dimensions:
        allowed = " or ".join(f"{n}-dimensional" for n in dimensions)
        raise ShapeError(
            f"{where}: expected a {allowed} array, got shape {list(array.shape)}; "
            "flatten the episodes into one array of steps"
        )
    return array


def owned_booleans(where: str, value: ArrayLike, dimensions: int) -> Array:
    """See `owned_numbers`; returns [...] bool, 0 and 1 taken for False and True, no others."""
    array = owned_numbers(where, value, (dimensions,))
    if array.dtype.kind != "b" and not np.isin(array, (0, 1)).all():
        raise BatchError(
            f"{where}: expected booleans, got dtype {array.dtype} with other values than 0 and 1; "
            "compare first"
        )
    return read_only(array.astype(np.bool_, copy=False))


def rows_at(array: Array, index: Any) -> Array:
    """Return `array[index]`, for step numbers in a fraction of its time."""
    # Rows of one number gain nothing, and arrays on a device take rows in their own way.
    wide = type(array) is np.ndarray and (array.ndim > 1 or array.dtype.names)
    if wide and isinstance(index, np.ndarray):
        numbers = cast("Array", index)
        if numbers.dtype.kind == "i" and numbers.size > 0:
            return array.take(numbers, 0)
    return array[index]


def numbers_at(count: int, index: Any) -> Array:
    """Return the numbers in [0, count) at an index, or raise NumPy's error."""
    return _numbers(count)[index]


@lru_cache(2)  # of a batch and its signals; minibatches ask for the same again
def _numbers(count: int) -> Array:
    return read_only(np.arange(count))


def read_only(array: Array) -> Array:
    """Make an array that pgcore owns read-only and return it; one on a device has no shared memory."""
    if is_host(array):
        array.flags.writeable = False
    return array


def fixed(array: Any) -> Any:
    """Return an array that refuses changes from now on, in host memory or on a device."""
    if is_host(array):
        return read_only(array)
    array.fixed = True
    return array


def is_host(array: object) -> bool:
    """Whether an array's numbers are in host memory: those on a device are not read, which would wait."""
    return isinstance(array, np.ndarray)


def is_constant(array: Array) -> bool:
    """Whether NumPy or bytes own the memory, and no array on the way to the owner is writable.

    A read-only view of another library's memory, such as a tensor's, changes with that memory.
    """
    while not array.flags.writeable:
        base: Any = array.base  # the memory's owner, which NumPy's annotations call an array
        if base is None:
            return array.flags.owndata
        if not isinstance(base, np.ndarray):
            return isinstance(base, bytes)
        array = cast("Array", base)
    return False


def check_length(where: str, array: Array, length: int, noun: str) -> None:
    """Raise ShapeError unless the array has that many rows, one for each `noun`."""
    if len(array) != length:
        raise ShapeError(
            f"{where}: expected {length} rows, one for each {noun}, got shape {list(array.shape)}; "
            "check how it was gathered"
        )


def check_rows(where: str, rule: str, valid: Any, got: Any, advice: str) -> None:
    """Raise BatchError at the first step that breaks a rule.

    On a device the check is put off, if somebody collects such checks; see `put_off`.

    Args:
        where: The array's name.
        rule: The expectation, after "expected".
        valid: [B] bool. False at a step that breaks the rule; not read on a device, which would wait.
        got: [B, ...] the array itself, or words for any step that breaks the rule.
        advice: The next thing to do.
    """
    if not is_host(valid):
        add_check(PutOff(valid, partial(check_copied_rows, where, rule, valid, got, advice)))
    elif not valid.all():
        step = int(valid.argmin())
        shown = got if isinstance(got, str) else got[step]
        raise BatchError(f"{where}: expected {rule}, got {shown} at step {step}; {advice}")


def booleans_in(mask: Any) -> Any:
    """Return [B] bool, False at rows of a [B, A] mask with numbers other than 0 and 1."""
    return ((mask == 0) | (mask == 1)).all(axis=1)


def check_copied_rows(where: str, rule: str, valid: Any, got: Any, advice: str) -> None:
    """Run `check_rows` of arrays on a device, by copies."""
    shown = got if isinstance(got, str) else np.asarray(got)
    check_rows(where, rule, np.asarray(valid), shown, advice)


@dataclass(eq=False)
class PutOff:
    """A check of an array on a device that was not read.

    Attributes:
        valid: [B] bool on the device, False where a rule is broken.
        check: Reads it and raises.
        passed: Whether it was read, and the rule holds.
    """

    valid: Any
    check: Callable[[], None]
    passed: bool = False

    def run(self) -> None:
        """Read, unless that was done, and raise where the rule is broken, each time."""
        if not self.passed:
            self.check()
            self.passed = True


CHECKS: ContextVar[list[PutOff] | None] = ContextVar("checks", default=None)


def add_check(check: PutOff) -> None:
    """Give a check to the caller that collects them; without one it is dropped."""
    if (checks := CHECKS.get()) is not None:
        checks.append(check)


@contextmanager
def put_off() -> Generator[list[PutOff]]:
    """Collect the checks of arrays on a device, which are not read meanwhile."""
    checks = list[PutOff]()
    token = CHECKS.set(checks)
    try:
        yield checks
    finally:
        CHECKS.reset(token)


def check_finite(where: str, array: Array, noun: str = "step") -> None:
    """Raise BatchError at the first row, a `noun`, that holds NaN or infinity."""
    if (row := row_not_finite(array)) is not None:
        raise BatchError(
            f"{where}: expected finite numbers, got {not_finite_in(array[row])} at {noun} {row}; "
            f"find where it came from and drop or mend that {noun}"
        )


def row_not_finite(array: Array) -> int | None:
    """Return the number of the first row with NaN or infinity, None if all are finite.

    Numbers on a device are not read.
    """
    if array.dtype.names is not None:
        rows = [row_not_finite(array[name]) for name in array.dtype.names]
        return min((row for row in rows if row is not None), default=None)
    if array.dtype.kind != "f" or not is_host(array):
        return None
    finite = np.isfinite(array)
    return None if finite.all() else first_row(~finite)


def not_finite_in(row: Any) -> str:
    """Return "NaN" or "infinity", with the name of the array where there are several."""
    if row.dtype.names is None:
        return "NaN" if np.isnan(row).any() else "infinity"
    bad = {name: row[name] for name in row.dtype.names if not np.isfinite(row[name]).all()}
    name, values = next(iter(bad.items()))
    return f"{not_finite_in(values)} in {name!r}"


def first_row(marks: Array) -> int:
    """Return the number of the first row of a bool array that holds True."""
    return int(marks.reshape(len(marks), -1).any(axis=1).argmax())


def first_not_finite(arrays: Mapping[str, Array]) -> str | None:
    """Return the name of the first array with NaN or infinity, None if all are finite."""
    return next((name for name, value in arrays.items() if not np.isfinite(value).all()), None)


def _owned(where: str, value: ArrayLike, *, copied: bool) -> Array:
    if type(value) is np.ndarray and is_constant(cast("Array", value)):
        return cast("Array", value)
    # Importing `numpy.ma` takes as long as pgcore itself; no masked array can exist without it.
    if "numpy.ma" in sys.modules and _has_mask(value):
        raise BatchError(
            f"{where}: expected an array without a mask, got a masked array; "
            "leave its masked rows out, or fill them with .filled(number)"
        )
    try:
        # Not every library's array can be asked for a copy, so `asarray`'s result is copied.
        array = np.asarray(value)
        return read_only(np.array(array) if copied else array.view())
    except ValueError as error:
        raise ShapeError(
            f"{where}: expected a rectangular array, got one that NumPy refuses ({error}); "
            "check the rows' lengths"
        ) from error
    except (TypeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise BatchError(
            f"{where}: expected an array that NumPy can read, got {type(value).__name__} "
            f"({reason}); convert it first, such as with .detach().cpu().numpy()"
        ) from error


def _has_mask(value: object, depth: int = 64) -> bool:  # NumPy 2 has at most 64 dimensions
    """Whether the value is a masked array, or a list with one in it, as deep as NumPy goes."""
    if not isinstance(value, list | tuple):
        return isinstance(value, np.ma.MaskedArray)
    items = cast("list[object]", value)
    # Types alone tell rows of plain numbers, at the speed of C.
    rows: tuple[type[Any], ...] = (list, tuple, np.ma.MaskedArray)
    nested: set[type] = {kind for kind in set(map(type, items)) if issubclass(kind, rows)}
    if not nested or depth == 0:
        return False
    return any(_has_mask(item, depth - 1) for item in items if type(item) in nested)
