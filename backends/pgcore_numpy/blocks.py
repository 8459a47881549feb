"""The fixed blocks of steps that gradients are computed in."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Estimator
from pgcore.validation.arrays import Array

__all__ = ["ALL", "BLOCK", "blocks", "blocks_of", "joined"]

# Steps of one block, such that its activations stay in the second-level cache. Blocks are fixed,
# and so is the order in which their gradients are added: every run gives the same bits.
BLOCK = 512

# All steps of a block.
ALL = slice(None)


@lru_cache(16)  # a training run has a few sizes
def blocks(steps: int) -> tuple[slice, ...]:
    """Return the fixed blocks of a number of steps."""
    starts = range(0, steps, BLOCK)
    return tuple(slice(start, min(start + BLOCK, steps)) for start in starts)


def blocks_of(estimator: Estimator, batch: Batch) -> tuple[slice, ...]:
    """Return the fixed blocks, of whole episodes for an estimator that sees episodes.

    An episode that is longer than a block is a block of its own.
    """
    if not estimator.sees_episodes:
        return blocks(batch.num_steps)
    slices: list[slice] = []
    start = 0
    for first, last in zip(batch.episode_starts.tolist(), batch.episode_ends.tolist(), strict=True):
        # The block ends before the episode that would make it too long.
        if first > start and last + 1 - start > BLOCK:
            slices.append(slice(start, first))
            start = first
    return (*slices, slice(start, batch.num_steps))


def joined(parts: list[Array]) -> Array:
    """Return the blocks' arrays as one."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
