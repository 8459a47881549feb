"""Arrays of frameworks among a batch's arguments: told from NumPy's, and read into host memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, cast

import numpy as np

from pgcore.data import native
from pgcore.data.device_array import Placed
from pgcore.errors import BatchError

__all__ = ["first_native", "host"]

# Types that are no framework's arrays, as most arguments are.
PLAIN = frozenset((np.ndarray, list, tuple, type(None)))


def host(value: Any) -> Any:
    """Return a framework's array as NumPy's, those of a mapping too; other values as they are."""
    if isinstance(value, Mapping):
        return {name: host(x) for name, x in cast("Mapping[Any, Any]", value).items()}
    if not native.is_native(value):
        return value
    # One that cannot be read is refused by the check of its own field, which names it.
    with suppress(BatchError):
        return native.host(value)
    return value


def first_native(where: str, named: Mapping[str, object]) -> Any:
    """Return the first framework array as a prototype without entries, or None without one.

    Raises:
        BatchError: arrays are of two frameworks; names the first of another.
    """
    first, prototype, found = "", None, None
    for name, array, arrays in natives(named):
        if found is None:
            first, found, prototype = name, arrays, prototype_of(array, arrays)
        elif arrays is not found:
            raise BatchError(
                f"{where} {name}: expected an array of {found.name}, as {first} is, got one of "
                f"{arrays.name}; convert one of them"
            )
    return prototype


def natives(named: Mapping[Any, object]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, array and framework of the frameworks' arrays, those of mappings too."""
    for name, value in named.items():
        if type(value) in PLAIN:
            continue
        if isinstance(value, Placed):
            yield str(name), value, value.place.arrays
        elif isinstance(value, Mapping):
            for key, array, arrays in natives(cast("Mapping[Any, object]", value)):
                yield f"{name}[{key!r}]", array, arrays
        else:
            arrays = native.arrays_of(value)
            if arrays is not None and arrays.differentiates:
                yield str(name), value, arrays


def prototype_of(array: Any, arrays: native.Arrays) -> Any:
    """Return an array without entries in an array's framework, dtype and device."""
    if isinstance(array, Placed):
        return array.place.like
    # A scalar has no axis to take nothing of.
    empty = array[:0] if array.shape else array
    # An array of its own, since a view would keep all of the caller's.
    return arrays.owned(arrays.xp.stop_gradient(empty))
