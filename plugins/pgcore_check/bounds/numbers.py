"""The array namespace `xp` over the kit's numbers: NumPy's extended precision, and `Bounded`.

Each function is the formula of `pgcore.xp.namespace.ArrayNamespace` in terms of arithmetic that
both number systems have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace
from pgcore.xp.numpy import HostNamespace
from pgcore_check.bounds.running_error import Bounded

__all__ = ["numbers", "over_episodes", "plain", "spread"]

Number = Any  # an array of extended precision, or a Bounded


class Numbers(HostNamespace):
    """See `pgcore.xp.namespace.ArrayNamespace`; forward values only."""

    def sum(self, x: Number, axis: int) -> Number:
        """See `ArrayNamespace.sum`."""
        return x.sum(axis=axis)

    def maximum(self, x: Number, y: Number) -> Number:
        """See `ArrayNamespace.maximum`."""
        return self.where((x >= y) | np.isnan(plain(x)), x, y)

    def minimum(self, x: Number, y: Number) -> Number:
        """See `ArrayNamespace.minimum`."""
        return self.where((x <= y) | np.isnan(plain(x)), x, y)

    def sigmoid(self, x: Number) -> Number:
        """See `ArrayNamespace.sigmoid`; smooth at 0, so that its choice there is none to record."""
        tail = np.exp(-np.abs(x))
        return self.where(plain(x) >= 0, 1.0, tail) / (1.0 + tail)

    def broadcast_to(self, x: Number, like: Number) -> Number:
        """See `ArrayNamespace.broadcast_to`."""
        return spread(x, like.shape)

    def log_softmax(self, x: Number, axis: int) -> Number:
        """See `ArrayNamespace.log_softmax`."""
        # The result does not depend on the shift, so that its rounding does no harm.
        shifted = x - plain(x).max(axis=axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))

    def take_last(self, x: Number, index: Array) -> Number:
        """See `ArrayNamespace.take_last`."""
        return x[np.arange(x.shape[0]), index]

    def first_largest(self, x: Number) -> Array:
        """See `ArrayNamespace.first_largest`."""
        columns: Array = plain(x).argmax(axis=1)
        rows = np.arange(len(columns))
        largest = np.zeros(x.shape, np.bool_)
        largest[rows, columns] = True
        # Compared for the record of near choices; see `running_error.choices`.
        _ = x < x[rows, columns].reshape(-1, 1)
        return largest

    def episode_sum(self, x: Number, episode: Array) -> Number:
        """See `ArrayNamespace.episode_sum`."""
        return over_episodes(lambda rows: x[rows].sum(axis=0).reshape(1), episode)

    def episode_mean(self, x: Number, episode: Array) -> Number:
        """See `ArrayNamespace.episode_mean`."""
        return over_episodes(lambda rows: x[rows].sum(axis=0).reshape(1) / len(rows), episode)


def over_episodes(number_of: Callable[[Array], Number], episode: Array, axis: int = 0) -> Number:
    """Return an episode's number at each of its steps.

    Args:
        number_of: From the indices of an episode's steps to its number, with an axis of length 1.
        episode: [B] integers.
        axis: The axis of steps in the result.
    """
    episodes, row = np.unique(episode, return_inverse=True)
    parts = [number_of(np.flatnonzero(episode == number)) for number in episodes]
    joined: Number = np.concatenate(parts, axis)
    return joined[(slice(None),) * axis + (row,)]


def spread(x: Number, shape: tuple[int, ...]) -> Number:
    """Repeat numbers to a shape."""
    if not isinstance(x, Bounded):
        return np.broadcast_to(x, shape)
    return Bounded(np.broadcast_to(x.value, shape), np.broadcast_to(x.error, shape), x.floor)


def plain(x: Any) -> Array:
    """Return the values of numbers without their bounds."""
    return x.value if isinstance(x, Bounded) else np.asarray(x)


numbers = cast("ArrayNamespace", Numbers())
