"""Copies of a host's arrays on a policy's device, as long as the arrays live."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from pgcore.validation.arrays import Array, is_host
from pgcore.xp.namespace import Native

__all__ = ["MOST_BYTES", "Copies"]

# Memory on the device for copies of one policy's batches: 2 GiB. A larger batch is moved by minibatches.
MOST_BYTES = 2 << 30


class Copies:
    """Native copies of NumPy arrays; each is freed with its array, or where room is needed.

    A copy of this object, or its pickle, is empty.

    Attributes:
        entries: Weak reference to the array, native copy and bytes, by the array's address and form.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.entries: OrderedDict[tuple[int, str], tuple[Any, Native, int]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of copies."""
        return len(self.entries)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the copies behind: they belong to a device."""
        return type(self), ()

    def get(self, array: Array, form: str, make: Callable[[Array], Native]) -> Native:
        """Return the native copy of an array, made at the first call; the array is then read-only.

        A writable view of memory that cannot be made read-only has no copy that lasts.

        Args:
            array: NumPy's; a later array at the same address is another.
            form: The kind of copy: one array may have several.
            make: Makes the copy.
        """
        key = (id(array), form)
        entry = self.entries.get(key)
        if entry is not None and entry[0]() is array:
            return entry[1]
        native = make(array)
        # A change of the array would not reach its copy.
        if not freeze(array):
            return native
        copies = weakref.ref(self)
        alive = weakref.ref(array, lambda gone: forget(copies(), key, gone))
        self.entries[key] = (alive, native, array.nbytes)
        # A list, since the garbage collector may free an array, and so an entry, at any time.
        while sum(size for _, _, size in list(self.entries.values())) > MOST_BYTES:
            self.entries.popitem(last=False)
        return native


def freeze(array: Array) -> bool:
    """Make an array read-only, and the base of a view; return False where that is not NumPy's."""
    # A read-only array is one that nobody changes: `Batch` says so. So is one on a device.
    if not is_host(array) or not array.flags.writeable:
        return True
    base: Any = array.base
    if base is not None:
        if not isinstance(base, np.ndarray):
            return False
        base.flags.writeable = False
    array.flags.writeable = False
    return True


def forget(copies: Copies | None, key: tuple[int, str], gone: Any) -> None:
    """Drop the copy of an array that is freed."""
    if copies is not None:
        # Another array may have the address by now.
        entry = copies.entries.get(key)
        if entry is not None and entry[0] is gone:
            del copies.entries[key]
