"""The rule of agreement: errors in units of the rounding-error bound.

For every component j: |g_j - g*_j| <= c u e_j, with g* the closed form in extended precision, e_j
its running error bound, u the roundoff of the working precision, and c = 4 against the reference.
A fixed relative tolerance would be flaky on extreme inputs and blind on mild ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pgcore.validation.arrays import Array
from pgcore_check.bounds.running_error import Bounded

__all__ = ["FACTOR", "POWER", "TINY", "allowance", "largest", "powered"]

# The rule's c.
FACTOR = 4.0

# A component has power where 4 u e is at most this share of it: an error of that size would be
# seen. In float32 u is 6e-8, and e some hundreds of roundings in a network of a few layers, so that
# a thousandth is as much as can be asked.
POWER = {"float32": 1e-3, "float64": 1e-6}

# Results below these are compared as absolute: frameworks flush them to 0. The smallest normal
# numbers are 1e-38 and 2e-308.
TINY = {"float32": 1e-30, "float64": 1e-290}


def allowance(bound: Any, dtype: np.dtype[Any]) -> Array:
    """Return u e for a `Bounded` result, and 0 for a result without arithmetic."""
    error = bound.error if isinstance(bound, Bounded) else np.zeros(np.shape(bound))
    return np.longdouble(np.finfo(dtype).eps) / 2 * error


def powered(exact: Array, allowed: Array, dtype: np.dtype[Any]) -> tuple[int, int]:
    """Return the number of components with power, and of finite nonzero ones; see `POWER`."""
    counted = np.isfinite(exact) & (np.abs(exact) > TINY[dtype.name])
    size = np.where(counted, np.abs(exact), 0)
    seen = counted & (FACTOR * allowed <= POWER[dtype.name] * size)
    return int(np.count_nonzero(seen)), int(np.count_nonzero(counted))


def largest(
    array: Array, exact: Array, allowed: Array, dtype: np.dtype[Any]
) -> tuple[float, tuple[int, ...]]:
    """Return the largest |array - exact| / allowed and its position.

    It is infinite for NaN, for a wrong shape or dtype, and where exactly one of the two is -inf.

    Args:
        array: A result.
        exact: Its exact value, of the same shape.
        allowed: The rounding-error bound of each entry.
        dtype: The dtype that the result must have.
    """
    if array.shape != exact.shape or array.dtype != dtype:
        return float("inf"), ()
    # Log-probabilities of masked actions are -inf exactly.
    impossible = exact == -np.inf
    finite = np.where(impossible, 0, array).astype(np.longdouble)
    distance = np.abs(finite - np.where(impossible, 0, exact))
    wrong = (impossible != (array == -np.inf)) | ~np.isfinite(distance)
    # A bound of 0 is divided by too: it stands for a result without arithmetic.
    smallest = np.longdouble(TINY[dtype.name])
    errors = np.where(wrong | (distance <= smallest), 0, distance)
    ratio = np.where(wrong, np.inf, errors / np.maximum(allowed, smallest / 1e6))
    position = np.unravel_index(int(ratio.argmax()), ratio.shape) if ratio.size else ()
    return (float(ratio[position]) if ratio.size else 0.0), tuple(int(index) for index in position)
