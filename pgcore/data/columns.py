"""The arguments of a constructor of episodes: read into NumPy's arrays and checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from pgcore.data.device_records import DeviceRecords
from pgcore.data.host import first_native, host
from pgcore.data.layout import Layout
from pgcore.data.placing import blank, staying
from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import (
    Array,
    is_host,
    not_finite_in,
    owned_booleans,
    owned_numbers,
    read_only,
    row_not_finite,
)
from pgcore.validation.batch_fields import LOSS_MASK
from pgcore.validation.observations import owned_observations

__all__ = ["Columns", "Flat", "rows_with"]

# Arguments that must be there where a constructor has them.
REQUIRED = {"observations", "actions", "rewards", "terminated", "mask"}
# Fields whose numbers must be finite: at every step, and where the loss mask is True.
FINITE = ("observations", "actions", "rewards", "discount")
FINITE_IN_LOSS = ("log_probs", "values")


class Flat(NamedTuple):
    """The arguments of `Episodes` or `Batch` that a constructor has found."""

    fields: dict[str, Any]
    layout: Layout | None
    like: Any


class Columns:
    """Arguments by name, those that are None left out.

    Attributes:
        where: The constructor, for errors.
        names: Of the arguments.
        extras: Names of extras, which are arguments named `extras['name']`.
        like: The first framework array among them; see `Episodes`.
    """

    def __init__(self, where: str, arguments: dict[str, Any], extras: object) -> None:
        """Keep the arguments.

        Raises:
            BatchError: an argument that is needed is None, or extras are no mapping from names.
        """
        self.where = where
        self.extras = _names(where, extras)
        named = {f"extras[{name!r}]": cast("Any", extras)[name] for name in self.extras}
        arguments = arguments | named
        self._values = {name: x for name, x in arguments.items() if x is not None}
        # Arrays that stay on an accelerator are read there.
        self.like = first_native(where, self._values)
        resident = {} if self.like is None else staying(self._values)
        self._read: dict[str, Any] = dict(resident)
        self._resident = resident.keys()
        self.names = self._values.keys()
        for name in REQUIRED & arguments.keys():
            self._check_there(name)
        for name, array in resident.items():
            self._values[name] = blank(array)

    def numbers(self, name: str, *dimensions: int, axes: int = 1) -> Array:
        """Return an argument as numbers, which may be a view of the caller's; see `owned_numbers`.

        Args:
            name: The argument's.
            dimensions: Allowed numbers of dimensions; none allows any.
            axes: Number of axes that the arrays of observations by name share.
        """
        if name not in self._read or (dimensions and name in self._resident):
            self._check_there(name)
            value, where = host(self._values[name]), f"{self.where} {name}"
            if name.endswith("observations"):
                numbers = owned_observations(where, value, axes, copied=False)
            else:
                numbers = owned_numbers(where, value, dimensions, copied=False)
            self._read.setdefault(name, numbers)
        read: Any = self._read[name]
        return cast("Any", read.with_axes(axes)) if isinstance(read, DeviceRecords) else read

    def _check_there(self, name: str) -> None:
        if name not in self.names:
            raise BatchError(f"{self.where} {name}: expected an array, got none; pass one")

    def raw(self, name: str) -> Any:
        """Return an argument as it came."""
        return self._values[name]

    def shaped(self, name: str, shape: tuple[int, ...], *, boolean: bool = False) -> Array:
        """Return an argument whose first axes are of a shape; with `boolean` it has no others.

        Raises:
            ShapeError: they are not.
            BatchError: no numbers, or no booleans.
        """
        array = self.numbers(name, axes=len(shape))
        further = list[Any]() if boolean else ["..."]
        if array.shape[: len(shape)] != shape or (boolean and array.ndim > len(shape)):
            raise ShapeError(
                f"{self.where} {name}: expected shape {[*shape, *further]}, got "
                f"{list(array.shape)}; lay all arrays out alike"
            )
        return owned_booleans(f"{self.where} {name}", array, len(shape)) if boolean else array

    def fields(
        self,
        names: tuple[str, ...],
        flat: Callable[[str], Array],
        place: Callable[[int], str],
        **extras: Array,
    ) -> dict[str, Any]:
        """Return arguments with a row for each step, extras among them, in the order of steps.

        Args:
            names: Those that are no extras; absent ones are left out.
            flat: From a name to [B, ...].
            place: From the number of a step to its place in the caller's arrays, for errors.
            extras: Further ones, [B, ...].

        Raises:
            BatchError: NaN or infinity where it is read; names the place.
        """
        # Read-only, so that a batch takes the arrays without another copy.
        fields: dict[str, Any] = {
            name: read_only(flat(name)) for name in names if name in self.names
        }
        for name in self.extras:
            if name in extras:
                raise BatchError(
                    f"{self.where} {name}: expected it once, got it as an argument and among extras; "
                    "leave one out"
                )
            extras[name] = read_only(flat(f"extras[{name!r}]"))
        if extras:
            fields["extras"] = extras
        mask = extras.get(LOSS_MASK)
        for name in (*FINITE, *FINITE_IN_LOSS):
            if name in fields:
                masked = None if name in FINITE else mask
                self.check_finite(name, fields[name], place, masked)
        return fields

    def check_finite(
        self, name: str, array: Array, place: Callable[[int], str], mask: Array | None = None
    ) -> None:
        """Raise BatchError at the first step with NaN or infinity; `mask` [B] leaves steps out.

        Numbers on a device are not read.
        """
        if not is_host(array):
            return
        if mask is not None and mask.shape == array.shape:
            array = np.where(mask, array, 0)
        if (row := row_not_finite(array)) is not None:
            raise BatchError(
                f"{self.where} {name}: expected finite numbers, got {not_finite_in(array[row])} at "
                f"{place(row)}; find where it came from"
            )


def rows_with(marks: Array) -> Array:
    """Return [B] bool: whether each row of [B, ...] bool holds True."""
    return np.any(marks, axis=tuple(range(1, marks.ndim)), keepdims=False)


def _names(where: str, extras: object) -> tuple[str, ...]:
    """Return the names of extras, or raise BatchError."""
    if extras is None:
        return ()
    names: tuple[Any, ...] = (None,)
    kind = type(extras).__name__
    if isinstance(extras, Mapping):
        names = tuple(cast("Mapping[Any, Any]", extras))
    if not all(isinstance(name, str) for name in names):
        raise BatchError(
            f"{where} extras: expected arrays by name, got {kind} without names; "
            "pass a dict from strings to arrays"
        )
    return names
