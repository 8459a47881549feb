"""Weights of a reduction over the steps that count."""

from __future__ import annotations

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.selection import Selection
from pgcore.interfaces.reduction import THE_BATCH, Reduction, Totals, checked_weights
from pgcore.validation.arrays import Array

__all__ = ["reduced"]


def reduced(
    reduction: Reduction, batch: Batch, counted: Array | None, totals: Totals = THE_BATCH
) -> Array:
    """Return [B] float64, a reduction's weights over the steps that count, 0 at the others.

    Args:
        reduction: Which sees a batch of those steps alone.
        batch: The steps.
        counted: [B] bool; None for all.
        totals: Of the whole that the batch is a part of, in steps that count.
    """
    if counted is None:
        return checked_weights(reduction, batch, totals)
    # A mean over nothing is left out of the loss: all answers of a batch may be left out.
    if not counted.any():
        return np.zeros(batch.num_steps)
    part = Selection(batch, counted)
    return part.spread(checked_weights(reduction, part.batch, totals))
