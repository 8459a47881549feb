"""The array namespace `xp` over NumPy arrays of any float dtype."""

from __future__ import annotations

import math
import operator
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pgcore.xp.namespace import ArrayNamespace

__all__ = ["HostNamespace", "host"]

Array = NDArray[Any]


class HostNamespace:
    """See `pgcore.xp.namespace.ArrayNamespace`; forward values only, so ties need no rule."""

    # NumPy's own functions, which take the same arguments.
    exp = staticmethod(np.exp)
    log = staticmethod(np.log)
    sqrt = staticmethod(np.sqrt)
    tanh = staticmethod(np.tanh)
    abs = staticmethod(np.abs)
    sum = staticmethod(np.add.reduce)
    matmul = staticmethod(np.matmul)
    concatenate = staticmethod(np.concatenate)
    full_like = staticmethod(np.full_like)
    take_rows = staticmethod(operator.getitem)

    def maximum(self, x: Any, y: Any) -> Array:
        """See `ArrayNamespace.maximum`."""
        return np.maximum(_plain(x), _plain(y))

    def minimum(self, x: Any, y: Any) -> Array:
        """See `ArrayNamespace.minimum`."""
        return np.minimum(_plain(x), _plain(y))

    def where(self, condition: Any, x: Any, y: Any) -> Array:
        """See `ArrayNamespace.where`."""
        return cast("Array", np.where(condition, _plain(x), _plain(y)))

    # Written with `where`, which every number system of the test kit has.

    def clip(self, x: Array, low: Any, high: Any) -> Array:
        """See `ArrayNamespace.clip`."""
        return self.where(x < low, low, self.where(x > high, high, x))

    def relu(self, x: Array) -> Array:
        """See `ArrayNamespace.relu`."""
        return np.where(x <= 0, 0.0, x)

    def sigmoid(self, x: Array) -> Array:
        """See `ArrayNamespace.sigmoid`; the exponential of a number that is never positive."""
        tail = np.exp(-np.abs(x))
        return np.where(x >= 0, 1.0, tail) / (1.0 + tail)

    def stop_gradient(self, x: Array) -> Array:
        """See `ArrayNamespace.stop_gradient`; nothing is differentiated here."""
        return x

    def convolve(self, x: Any, kernel: Any, stride: int) -> Any:
        """See `ArrayNamespace.convolve`; for arrays of any kind that have indices, shapes and `@`."""
        height, width, channels, outputs = kernel.shape
        rows, columns = _windows(x.shape[1], height, stride), _windows(x.shape[2], width, stride)
        # [B, H', W', h, w, C]: the indices of rows and columns broadcast to its four middle axes.
        windows = x[:, rows[:, None, :, None], columns[None, :, None, :]]
        size = height * width * channels
        products = windows.reshape(-1, size) @ kernel.reshape(size, outputs)
        return products.reshape(x.shape[0], len(rows), len(columns), outputs)

    def flatten(self, x: Any) -> Any:
        """See `ArrayNamespace.flatten`."""
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def broadcast_to(self, x: Array, like: Array) -> Array:
        """See `ArrayNamespace.broadcast_to`."""
        return np.broadcast_to(x, like.shape)

    def log_softmax(self, x: Array, axis: int) -> Array:
        """See `ArrayNamespace.log_softmax`."""
        # The largest entry becomes 0, so that no exponential overflows.
        shifted = x - x.max(axis=axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=axis, keepdims=True))

    def take_last(self, x: Array, index: Array) -> Array:
        """See `ArrayNamespace.take_last`."""
        return x[np.arange(len(x)), index]

    def first_largest(self, x: Array) -> Array:
        """See `ArrayNamespace.first_largest`."""
        largest = np.zeros(x.shape, np.bool_)
        largest[np.arange(len(x)), x.argmax(axis=1)] = True
        return largest

    def episode_sum(self, x: Array, episode: Array) -> Array:
        """See `ArrayNamespace.episode_sum`."""
        # Blocks of a batch keep the whole batch's episode numbers, so these need not start at 0.
        row = episode - episode.min()
        total = np.zeros_like(x, shape=row.max() + 1)
        np.add.at(total, row, x)
        return total[row]

    def episode_mean(self, x: Array, episode: Array) -> Array:
        """See `ArrayNamespace.episode_mean`."""
        return self.episode_sum(x, episode) / self.episode_sum(np.ones_like(x), episode)


def _windows(length: int, size: int, stride: int) -> Array:
    """Return [windows, size], the places of each window along an axis."""
    starts = np.arange(0, length - size + 1, stride)
    return starts[:, None] + np.arange(size)


def _plain(x: Any) -> Any:
    """Return a NumPy scalar as Python's, which leaves an array's dtype as it is; else `x`."""
    return cast("Any", x.item()) if isinstance(x, np.generic) else x


host = cast("ArrayNamespace", HostNamespace())
