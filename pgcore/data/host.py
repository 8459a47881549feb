"""Arrays of frameworks among a batch's arguments: told from NumPy's, and read into host memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def first_native(values: Iterable[object]) -> Any:
    """Return the first framework array as a prototype without entries, or None without one."""
    for value in values:
        if type(value) in PLAIN:
            continue
        if isinstance(value, Placed):
            return value.place.like
        if isinstance(value, Mapping):
            prototype = first_native(cast("Mapping[Any, object]", value).values())
            if prototype is not None:
                return prototype
            continue
        arrays = native.arrays_of(value)
        if arrays is not None and arrays.differentiates:
            array: Any = value
            # A scalar has no axis to take nothing of.
            empty = array[:0] if array.shape else array
            # An array of its own, since a view would keep all of the caller's.
            return arrays.owned(arrays.xp.stop_gradient(empty))
    return None
