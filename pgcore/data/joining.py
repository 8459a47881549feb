"""One field of several batches, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import Array
from pgcore.validation.observations import layout_of

__all__ = ["joined", "numbered_apart"]


def numbered_apart(groups: Sequence[Array]) -> Array:
    """Return [B] integers of all batches' groups, no number in two batches."""
    numbers, first = list[Array](), 0
    for group in groups:
        # Any integers may number groups, so they are ranked before they are shifted.
        distinct, number = np.unique(group, return_inverse=True)
        numbers.append(first + number)
        first += len(distinct)
    return np.concatenate(numbers)


def joined(where: str, name: str, values: list[Array | None]) -> Array | None:
    """Return one field of all batches, or raise unless all of them or none have it."""
    present = [value for value in values if value is not None]
    if not present:
        return None
    if len(present) < len(values):
        raise BatchError(
            f"{where}: expected {name} in all batches or in none, got it in "
            f"{len(present)} of {len(values)}; add or drop it"
        )
    shapes = sorted({layout_of(value) for value in present})
    if len(shapes) > 1:
        raise ShapeError(
            f"{where}: expected the same shape of {name} in all, got "
            f"{' and '.join(shapes)}; these do not belong together"
        )
    return np.concatenate(present)
