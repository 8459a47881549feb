"""Observations by name on an accelerator, in the place of NumPy's structured array."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from pgcore.data.device_array import Device, DeviceArray, Placed
from pgcore.errors import ShapeError
from pgcore.validation.arrays import Array, read_only

__all__ = ["DeviceRecords"]


class DeviceRecords(Placed):
    """Arrays on a device by name, which share their first axes; an index of rows is one of all.

    Attributes:
        arrays: Those on the device, names sorted.
        ndim: The number of axes that all share.
        shape: Those axes.
    """

    def __init__(self, where: str, arrays: Mapping[str, DeviceArray], ndim: int = 1) -> None:
        """Keep the arrays.

        Args:
            where: The argument's name, for errors.
            arrays: By name, at least one.
            ndim: See the class.

        Raises:
            ShapeError: arrays of different first axes.
        """
        self.where, self.ndim = where, ndim
        self.arrays = {name: arrays[name] for name in sorted(arrays)}
        first = next(iter(self.arrays))
        self.shape = self.arrays[first].shape[:ndim]
        for name, array in self.arrays.items():
            if array.ndim < ndim or array.shape[:ndim] != self.shape:
                raise ShapeError(
                    f"{where}[{name!r}]: expected shape {[*self.shape, '...']}, as {first!r} has, got "
                    f"{list(array.shape)}; lay all of them out alike"
                )

    def with_axes(self, ndim: int) -> DeviceRecords:
        """Return the same arrays, of which so many axes are shared."""
        return self if ndim == self.ndim else DeviceRecords(self.where, self.arrays, ndim)

    @property
    def place(self) -> Device:
        """The device."""
        return next(iter(self.arrays.values())).place

    @property
    def fixed(self) -> bool:
        """Whether all arrays refuse changes."""
        return all(x.fixed for x in self.arrays.values())

    @fixed.setter
    def fixed(self, value: bool) -> None:
        for x in self.arrays.values():
            x.fixed = value

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the structured array."""
        fields = [(name, x.dtype, x.shape[self.ndim :]) for name, x in self.arrays.items()]
        return np.dtype(fields)

    @property
    def size(self) -> int:
        """The number of entries of the shared axes."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all arrays."""
        return sum(x.nbytes for x in self.arrays.values())

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    def __iter__(self) -> Iterator[DeviceRecords]:
        """Yield the rows."""
        return (self[row] for row in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        """Return one array by its name, or rows of all."""
        if isinstance(index, str):
            return self.arrays[index]
        axes = np.broadcast_to(0, self.shape)[index].ndim
        return self._each(lambda x: x[index], axes)

    def __setitem__(self, index: Any, value: Any) -> None:
        """Replace rows of all arrays."""
        for name, x in self.arrays.items():
            x[index] = value[name]

    def reshape(self, *shape: Any) -> DeviceRecords:
        """See `numpy.ndarray.reshape`, of the shared axes."""
        axes = np.broadcast_to(0, self.shape).reshape(*shape).shape
        return self._each(lambda x: x.reshape(*axes, *x.shape[self.ndim :]), len(axes))

    def swapaxes(self, first: int, second: int) -> DeviceRecords:
        """See `numpy.ndarray.swapaxes`, of the shared axes."""
        return self._each(lambda x: x.swapaxes(first, second), self.ndim)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:  # noqa: FBT001 - NumPy's
        """Return a structured array in host memory."""
        result = np.empty(self.shape, self.dtype)
        for name, x in self.arrays.items():
            result[name] = np.asarray(x)
        return read_only(result)

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: Any
    ) -> Any:
        """Return zeros on the device for `numpy.zeros_like`; run others on copies in host memory."""
        if function is np.zeros_like and "shape" in kwargs:
            shape = kwargs["shape"]
            return self._each(
                lambda x: np.zeros_like(x, shape=(*shape, *x.shape[self.ndim :])), len(shape)
            )
        return function(*(np.asarray(x) if x is self else x for x in args), **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the numbers alone, as NumPy's array."""
        return read_only, (np.array(self),)

    def __repr__(self) -> str:
        """Return the shared axes and the names."""
        return f"DeviceRecords({list(self.shape)}: {', '.join(self.arrays)})"

    def _each(self, function: Callable[[Any], Any], ndim: int) -> DeviceRecords:
        arrays = {name: function(x) for name, x in self.arrays.items()}
        return DeviceRecords(self.where, arrays, ndim)
