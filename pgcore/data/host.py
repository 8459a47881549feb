"""Arrays of frameworks: told from NumPy's, and read into the host's memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["first_native", "host", "is_native"]

# Types that are no framework's arrays, as most arguments are.
PLAIN = frozenset((np.ndarray, list, tuple, dict, type(None)))


def is_native(value: object) -> bool:
    """Whether a value is a framework's array: one that lives on a device and is not NumPy's."""
    if isinstance(value, np.ndarray | np.generic):
        return False
    return all(hasattr(value, name) for name in ("device", "dtype", "shape"))


def host(value: Any) -> Any:
    """Return a framework's array as one that NumPy can read; other values as they are."""
    return value


def first_native(values: Iterable[object]) -> Any:
    """Return the first framework array as a prototype without entries, or None without one."""
    for value in values:
        if type(value) not in PLAIN and is_native(value):
            array: Any = value
            # A scalar has no axis to take nothing of.
            return array[:0] if array.shape else array
    return None
