"""The array namespace `xp` over NumPy arrays of any float dtype: the core's own sampling and the test kit's reference run on it."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pgcore.xp.namespace import ArrayNamespace

__all__ = ["HostNamespace", "host"]

Array = NDArray[Any]


class HostNamespace:
    """See `pgcore.xp.namespace.ArrayNamespace`; forward values only, so ties need no rule."""

    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    sqrt = staticmethod(np.sqrt)
    tanh = staticmethod(np.tanh)
    matmul = staticmethod(np.matmul)
    abs = staticmethod(np.abs)

    def maximum(self, x: Any, y: Any) -> Array:
        """See `ArrayNamespace.maximum`."""
        return np.maximum(plain(x), plain(y))

    def minimum(self, x: Any, y: Any) -> Array:
        """See `ArrayNamespace.minimum`."""
        return np.minimum(plain(x), plain(y))

    def clip(self, x: Array, low: Any, high: Any) -> Array:
        """See `ArrayNamespace.clip`; said as a choice, which every number system of the test kit has."""
        return self.where(x < low, low, self.where(x > high, high, x))

    def where(self, condition: Any, x: Any, y: Any) -> Array:
        """See `ArrayNamespace.where`."""
        return cast("Array", np.where(condition, plain(x), plain(y)))

    def sigmoid(self, x: Array) -> Array:
        """See `ArrayNamespace.sigmoid`; the exponential of a number that is never positive."""
        tail = np.exp(-np.abs(x))
        return np.where(x >= 0, 1.0, tail) / (1.0 + tail)

    def relu(self, x: Array) -> Array:
        """See `ArrayNamespace.relu`; said as a choice, as `clip` is."""
        return np.where(x <= 0, 0.0, x)

    def sum(self, x: Array, axis: int) -> Array:
        """See `ArrayNamespace.sum`."""
        return x.sum(axis=axis)

    def concatenate(self, arrays: tuple[Array, ...], axis: int) -> Array:
        """See `ArrayNamespace.concatenate`."""
        return np.concatenate(arrays, axis=axis)

    def broadcast_to(self, x: Array, like: Array) -> Array:
        """See `ArrayNamespace.broadcast_to`."""
        return np.broadcast_to(x, like.shape)

    def full_like(self, x: Array, value: float) -> Array:
        """See `ArrayNamespace.full_like`."""
        return np.full_like(x, value)

    def log_softmax(self, x: Array, axis: int) -> Array:
        """See `ArrayNamespace.log_softmax`."""
        shifted = x - x.max(axis=axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))

    def take_last(self, x: Array, index: Array) -> Array:
        """See `ArrayNamespace.take_last`."""
        return x[np.arange(len(x)), index]

    def take_rows(self, x: Array, index: Array) -> Array:
        """See `ArrayNamespace.take_rows`."""
        return x[index]

    def first_largest(self, x: Array) -> Array:
        """See `ArrayNamespace.first_largest`."""
        found = np.zeros(x.shape, np.bool_)
        found[np.arange(len(x)), x.argmax(axis=1)] = True
        return found

    def episode_sum(self, x: Array, episode: Array) -> Array:
        """See `ArrayNamespace.episode_sum`."""
        first = episode - episode.min()
        total = np.zeros(first.max() + 1, x.dtype)
        np.add.at(total, first, x)
        return total[first]

    def episode_mean(self, x: Array, episode: Array) -> Array:
        """See `ArrayNamespace.episode_mean`."""
        return self.episode_sum(x, episode) / self.episode_sum(np.ones_like(x), episode)


def plain(x: Any) -> Any:
    """Return NumPy's numbers as Python's, which leave an array's dtype as it is; anything else unchanged."""
    return cast("Any", x.item()) if isinstance(x, np.generic) else x


host = cast("ArrayNamespace", HostNamespace())
