"""Arrays of a framework on an accelerator, which NumPy's functions compute on.

Signals are written in NumPy. On a `DeviceArray` the same code runs in the framework, by NumPy's own
protocols: nothing with a step axis crosses to the host. A function that is not among those of
`pgcore.data.device_functions` gets host arrays, and returns them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial, wraps
from typing import Any, cast
from weakref import ReferenceType, ref

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from pgcore.data.native import Arrays, host
from pgcore.validation.arrays import Array, is_host, read_only
from pgcore.xp.namespace import Native

__all__ = ["Device", "DeviceArray", "Placed", "as_array", "place_of"]

KEPT = 16  # read-only host arrays on a device

# Methods that would change a copy.
IN_PLACE = ("byteswap", "fill", "partition", "put", "resize", "setfield", "setflags", "sort")


@dataclass(frozen=True, eq=False)
class Device:
    """The place of some arrays, and the dtype of their floats.

    Attributes:
        arrays: The framework's.
        like: An array on the device, without entries.
        dtype: "float32" or "float64"; NumPy code that asks for float64 gets this one.
        moved: Read-only host arrays, such as step numbers, that were moved here, with the results.
    """

    arrays: Arrays
    like: Native
    dtype: str
    moved: dict[tuple[int, str], tuple[Array, Native]] = field(default_factory=dict, repr=False)

    @cached_property
    def name(self) -> str:
        """The framework's name of the device."""
        return self.arrays.device(self.like)

    def array(self, x: Native) -> DeviceArray:
        """Return a framework's array on this device as one that NumPy's functions take."""
        return DeviceArray(self, x)

    def holding(self, x: Any) -> DeviceArray:
        """Return a caller's array, as it is now, without its derivative; floats in the device's dtype.

        Raises:
            BatchError: it cannot be read, and is none of the framework.
        """
        if isinstance(x, DeviceArray):
            if x.dtype.kind != "f" or x.dtype == self.dtype:
                return x
            return self.array(self.arrays.cast(x.native, self.dtype))
        if not self.arrays.owns(x):
            return self.array(self.native(host(x)))
        x = self.arrays.owned(self.arrays.xp.stop_gradient(x))
        name = self.arrays.dtype(x)
        return self.array(self.arrays.cast(x, self.dtype) if "float" in name else x)

    def native(self, value: Any, kind: str = "") -> Native:
        """Return a value as the framework's array; single numbers as Python's.

        Args:
            value: A `DeviceArray`, or anything that NumPy reads, which is moved.
            kind: "f", "b" or "i" for floats, booleans or integers; "" for those that it has.
        """
        if isinstance(value, DeviceArray):
            if kind in ("", value.dtype.kind):
                return value.native
            return value.native != 0 if kind == "b" else self.arrays.cast(value.native, self.dtype)
        numbers = np.asarray(value)
        kind = kind or numbers.dtype.kind
        if numbers.ndim == 0:
            return {"f": float, "b": bool}.get(kind, int)(numbers)
        dtype = {"f": np.dtype(self.dtype), "b": np.dtype(np.bool_)}.get(kind, numbers.dtype)
        if numbers.flags.writeable or not numbers.flags.owndata:
            return self.arrays.native(numbers.astype(dtype, copy=False), self.like)
        key = id(numbers), dtype.name  # of an array that `moved` keeps
        if key not in self.moved:
            if len(self.moved) == KEPT:
                self.moved.pop(next(iter(self.moved)))
            moved = self.arrays.native(numbers.astype(dtype, copy=False), self.like)
            self.moved[key] = numbers, moved
        return self.moved[key][1]


class Placed:
    """What is on a device.

    Attributes:
        place: The device.
    """

    __slots__ = ()

    place: Any


def in_float64(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of `DeviceArray` that keeps float64: JAX has none unless it is asked for."""

    @wraps(method)
    def run(self: DeviceArray, *args: Any, **options: Any) -> Any:
        if self.place.dtype != "float64":
            return method(self, *args, **options)
        with self.place.arrays.computing("float64"):
            return method(self, *args, **options)

    return run


class DeviceArray(Placed, NDArrayOperatorsMixin):
    """A framework's array on an accelerator, in the place of NumPy's.

    Assignment to entries replaces the framework's array. Where NumPy's arrays would share memory, it
    is refused. Positions are the host's; an index of integers on the device is used there.

    Attributes:
        place: Its device.
        native: The framework's array.
        base: The array whose memory NumPy would share, or None.
        views: Weak references to the arrays of which this one is the base.
        fixed: Whether it refuses changes, as read-only arrays of NumPy's do.
    """

    __slots__ = ("__weakref__", "base", "fixed", "native", "place", "views")

    def __init__(self, place: Device, native: Native, base: DeviceArray | None = None) -> None:
        """Keep all three."""
        self.place, self.native, self.base, self.fixed = place, native, base, False
        self.views: list[ReferenceType[DeviceArray]] = []
        if base is not None:
            base.views = [view for view in base.views if view() is not None]
            base.views.append(ref(self))

    # The attributes and methods of NumPy's arrays.

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths of the axes."""
        return tuple(self.native.shape)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.native.shape)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's."""
        return np.dtype(self.place.arrays.dtype(self.native))

    @property
    def nbytes(self) -> int:
        """The bytes of all entries."""
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> DeviceArray:  # noqa: N802 - NumPy's name
        """The array with its axes exchanged, two at most."""
        if self.ndim > 2:
            raise NotImplementedError("axes beyond the first two")
        return self if self.ndim < 2 else self.swapaxes(0, 1)

    def swapaxes(self, first: int, second: int) -> DeviceArray:
        """Return the array with its first two axes exchanged."""
        if {first, second} != {0, 1}:
            raise NotImplementedError("axes beyond the first two")
        rows, columns = self.shape[:2]
        order = np.arange(rows * columns).reshape(rows, columns).T
        return self._view(self.reshape(-1, *self.shape[2:])[order].native)

    @in_float64
    def reshape(self, *shape: Any) -> DeviceArray:
        """See `numpy.ndarray.reshape`."""
        axes = shape if len(shape) != 1 else tuple(np.atleast_1d(shape[0]).tolist())
        # One length may be open, which frameworks cannot find beside a length of 0.
        known = -math.prod(axes)
        lengths = tuple(self.size // max(known, 1) if n == -1 else n for n in axes)
        return self._view(self.place.arrays.reshape(self.native, lengths))

    def ravel(self) -> DeviceArray:
        """See `numpy.ndarray.ravel`."""
        return self.reshape(self.size)

    def copy(self) -> DeviceArray:
        """Return an array that changes alone."""
        return self._with(self.native)

    @in_float64
    def astype(self, dtype: Any, *, copy: bool = True) -> DeviceArray:
        """Return the array in another dtype; every float dtype is the device's."""
        kind = np.dtype(dtype).kind
        if kind in "fb":
            return self._with(self.place.native(self, kind))
        if self.dtype.kind in "iu":
            return self.copy()
        return self._with(self.place.arrays.cast(self.native, np.dtype(dtype).name))

    def item(self) -> Any:
        """Return the only entry, which waits for the device."""
        return np.asarray(self).item()

    def tolist(self) -> Any:
        """See `numpy.ndarray.tolist`."""
        return np.asarray(self).tolist()

    def __getattr__(self, name: str) -> Any:
        """Return another attribute of NumPy's arrays: a function of this name, or that of a host array."""
        if name.startswith("_") or name in IN_PLACE or not hasattr(np.ndarray, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        function: Any = getattr(np, name, None)
        if function in functions().FUNCTIONS:
            return partial(function, self)
        return getattr(np.asarray(self), name)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __iter__(self) -> Iterator[DeviceArray]:
        """Yield the rows."""
        return (self[row] for row in range(len(self)))

    def __bool__(self) -> bool:
        """Whether the only entry is not 0."""
        return bool(self.item())

    def __float__(self) -> float:
        """Return the only entry."""
        return float(self.item())

    def __int__(self) -> int:
        """Return the only entry."""
        return int(self.item())

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the numbers alone, as NumPy's array: a copy knows no device."""
        return read_only, (np.array(self),)

    def __repr__(self) -> str:
        """Return the sizes."""
        return f"DeviceArray({list(self.shape)} {self.dtype} of {self.place.arrays.name})"

    # NumPy's protocols.

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:  # noqa: FBT001 - NumPy's
        """Return the numbers in host memory, read-only: what is written there would not come back."""
        numbers = np.asarray(host(self.native), dtype)
        return numbers.copy() if copy else read_only(numbers.view())

    @in_float64
    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """See `numpy.ndarray.__array_ufunc__`."""
        out = options.pop("out", (None,))[0]
        function: Any = functions().UFUNCS.get((ufunc.__name__, method))
        if method == "at":
            return self._at(ufunc, function, *inputs)
        if "where" in options:
            # Entries that are left out keep what is there.
            options["out"] = np.array(out) if isinstance(out, DeviceArray) else out
            function = None
        result = self._run(function, getattr(ufunc, method), inputs, options)
        if isinstance(out, DeviceArray):
            out.replace(self.place.native(result, out.dtype.kind))
            return out
        if out is not None and "where" not in options:
            out[...] = np.asarray(result)
            return out
        return result

    @in_float64
    def __array_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """See `numpy.ndarray.__array_function__`."""
        return self._run(functions().FUNCTIONS.get(function), function, args, kwargs)

    def _at(self, ufunc: np.ufunc, function: Any, target: Any, *inputs: Any) -> None:
        """See `numpy.ufunc.at`."""
        if function is not None:
            function(self.place, target, *inputs)
            return
        numbers = np.array(target)
        ufunc.at(numbers, *on_host(inputs))
        target[...] = numbers

    def _run(
        self, function: Any, of_numpy: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        """Return the framework's result of a function, or NumPy's of host arrays without one."""
        if function is not None:
            try:
                return function(self.place, *args, **kwargs)
            except (NotImplementedError, TypeError):
                pass  # options that it does not take
        return of_numpy(*on_host(args), **on_host(dict(kwargs)))

    def _with(self, native: Native) -> DeviceArray:
        return DeviceArray(self.place, native)

    def _view(self, native: Native) -> DeviceArray:
        return DeviceArray(self.place, native, self)

    def replace(self, native: Native) -> None:
        """Take another array of the framework.

        Raises:
            NotImplementedError: an array that would share memory with this one is still there.
            ValueError: it is fixed.
        """
        if self.fixed:
            raise ValueError("assignment destination is read-only")
        if self.base is not None or any(view() is not None for view in self.views):
            raise NotImplementedError("assignment to shared memory")
        self.native = native

    # Rows and entries.

    @in_float64
    def __getitem__(self, index: Any) -> Any:
        """Return rows or entries."""
        arrays = self.place.arrays
        if is_basic(index):
            return self._view(self.native[index])
        if isinstance(index, tuple):
            parts = cast("tuple[Any, ...]", index)
            if len(parts) > self.ndim or any(is_basic(part) for part in parts):
                return np.asarray(self)[on_host(parts)]
            position, *further = map(as_array, parts)
            for axis, part in enumerate(further, 1):
                position = position * self.shape[axis] + part
            return self.reshape(-1, *self.shape[len(parts) :])[position]
        if isinstance(index, DeviceArray) and index.dtype.kind != "b":
            return self._with(arrays.rows(self.native, index.native))
        rows = self._numbers(index)
        if rows.ndim != 1:
            return self._with(self[rows.ravel()].reshape(*rows.shape, *self.shape[1:]).native)
        taken = arrays.rows(self._flat(index), self.place.native(rows))
        return self._view(taken) if isinstance(index, slice) else self._with(taken)

    @in_float64
    def __setitem__(self, index: Any, value: Any) -> None:
        """Replace rows or entries, by a copy."""
        device, axes = self.place, self.shape
        if isinstance(index, tuple):
            # The numbers of single entries.
            flat = self._with(device.arrays.reshape(self.native, (self.size,)))
            value = value.ravel() if isinstance(value, DeviceArray) else np.ravel(value)
            value = value if value.size > 1 else value[0]
            flat[np.arange(self.size).reshape(axes)[on_host(index)].ravel()] = value
            self.replace(device.arrays.reshape(flat.native, axes))
            return
        value = device.native(value, self.dtype.kind)
        if len(getattr(value, "shape", ())) == 0:
            mask = self._marks(index)
            marks = device.arrays.reshape(mask, (*mask.shape, *[1] * (len(axes) - len(mask.shape))))
            self.replace(device.arrays.xp.where(marks, value, self.native))
            return
        rows, table = self._numbers(index), self._flat(index)
        if tuple(value.shape) != (len(rows), *table.shape[1:]):
            raise NotImplementedError("assignment of fewer rows")
        if isinstance(index, slice) and cast("Any", index).step in (None, 1):
            start, stop, _ = cast("Any", index).indices(len(self))
            parts = (self.native[:start], value, self.native[max(start, stop) :])
            self.replace(device.arrays.xp.concatenate(parts, 0))
            return
        source: Array = np.arange(int(table.shape[0]))
        source[rows] = len(source) + np.arange(len(rows))
        joined = device.arrays.xp.concatenate((table, value), 0)
        changed = device.arrays.rows(joined, device.native(source))
        self.replace(device.arrays.reshape(changed, axes))

    def _marks(self, index: Any) -> Native:
        """Return a bool array, True in the rows at an index."""
        if isinstance(index, DeviceArray) and index.dtype.kind == "b":
            return index.native
        place = on_host(index)
        masked = getattr(place, "dtype", None) == np.bool_
        marks = np.zeros(place.shape if masked else self.shape[:1], np.bool_)
        marks[place] = True
        return self.place.native(marks)

    def _flat(self, index: Any) -> Native:
        """Return the framework's array, with the axes of a mask made one."""
        axes = np.ndim(index) if getattr(index, "dtype", None) == np.bool_ else 1
        return self.native if axes <= 1 else self.reshape(-1, *self.shape[axes:]).native

    def _numbers(self, index: Any) -> Array:
        """Return the host's row numbers of an index, at least 0."""
        place: Any = on_host(index)
        if getattr(place, "dtype", None) == np.bool_:
            if place.shape != self.shape[: place.ndim]:
                raise IndexError(f"a mask of shape {list(place.shape)} for {list(self.shape)}")
            return np.flatnonzero(place)
        # A device would read outside of the array, or stop altogether.
        plain = is_host(place) and place.dtype.kind == "i" and place.size > 0
        if plain and 0 <= place.min() <= place.max() < len(self):
            return place
        return np.asarray(np.arange(len(self))[place])


def functions() -> Any:
    """Return `pgcore.data.device_functions`, which only arrays on a device load."""
    from pgcore.data import device_functions

    return device_functions


def is_basic(index: Any) -> bool:
    """Whether every framework takes an index of whole axes, single numbers and slices as it is."""
    if isinstance(index, tuple):
        parts = cast("tuple[Any, ...]", index)
        return all(is_basic(part) and not isinstance(part, tuple) for part in parts)
    if isinstance(index, slice):
        step: Any = cast("Any", index).step
        return step is None or step > 0
    return index is None or index is Ellipsis or type(index) is int


def on_host(value: Any) -> Any:
    """Return a value with every array on a device, alone or in a container, as NumPy's."""
    if isinstance(value, DeviceArray):
        return np.asarray(value)
    if isinstance(value, tuple | list):
        items = cast("list[Any]", value)
        return type(items)(map(on_host, items))
    if isinstance(value, dict):
        named = cast("dict[Any, Any]", value)
        return {name: on_host(item) for name, item in named.items()}
    return value


def place_of(value: object) -> Any:
    """Return the `Device` of a value that is on one; None of any other."""
    return value.place if isinstance(value, Placed) else None


def as_array(value: Any, dtype: Any = None) -> Any:
    """Return an array on a device in the device's dtype, and anything else as NumPy's in `dtype`."""
    return value if isinstance(value, DeviceArray) else np.asarray(value, dtype)
