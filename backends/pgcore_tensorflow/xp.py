"""The array namespace `xp` over TensorFlow tensors, with `ArrayNamespace`'s subgradients."""

from __future__ import annotations

import math
from typing import Any, cast

import tensorflow as tf

from pgcore.xp.namespace import ArrayNamespace

__all__ = ["TensorflowNamespace", "xp"]

Tensor = Any  # TensorFlow's functions carry no types that a checker could use.


class TensorflowNamespace:
    """See `pgcore.xp.namespace.ArrayNamespace`.

    Each function with a non-differentiable point is a choice by `where`, since TensorFlow
    documents no subgradients.
    """

    # Functions that TensorFlow has with the same arguments and derivatives.
    exp = staticmethod(tf.exp)
    log = staticmethod(tf.math.log)
    sqrt = staticmethod(tf.sqrt)
    tanh = staticmethod(tf.tanh)
    sigmoid = staticmethod(tf.sigmoid)
    matmul = staticmethod(tf.matmul)
    take_rows = staticmethod(tf.gather)
    sum = staticmethod(tf.reduce_sum)
    concatenate = staticmethod(tf.concat)
    log_softmax = staticmethod(tf.nn.log_softmax)
    stop_gradient = staticmethod(tf.stop_gradient)

    def relu(self, x: Tensor) -> Tensor:
        """See `ArrayNamespace.relu`."""
        return self.where(x <= 0, 0.0, x)

    def abs(self, x: Tensor) -> Tensor:
        """See `ArrayNamespace.abs`."""
        return self.where(x == 0, 0.0, self.where(x < 0, -x, x))

    def maximum(self, x: Tensor, y: Tensor) -> Tensor:
        """See `ArrayNamespace.maximum`."""
        return self.where((x >= y) | (x != x), x, y)  # noqa: PLR0124 - NaN alone differs from itself

    def minimum(self, x: Tensor, y: Tensor) -> Tensor:
        """See `ArrayNamespace.minimum`."""
        return self.where((x <= y) | (x != x), x, y)  # noqa: PLR0124 - see `maximum`

    def clip(self, x: Tensor, low: Any, high: Any) -> Tensor:
        """See `ArrayNamespace.clip`."""
        return self.where(x < low, low, self.where(x > high, high, x))

    def where(self, condition: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """See `ArrayNamespace.where`."""
        # TensorFlow takes a bare number for float32.
        dtype = x.dtype if tf.is_tensor(x) else y.dtype
        return tf.where(condition, tf.convert_to_tensor(x, dtype), tf.convert_to_tensor(y, dtype))

    def convolve(self, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
        """See `ArrayNamespace.convolve`."""
        return tf.nn.conv2d(x, kernel, stride, "VALID")

    def flatten(self, x: Tensor) -> Tensor:
        """See `ArrayNamespace.flatten`."""
        shape = tf.shape(x)
        known = x.shape[1:].is_fully_defined()
        # Of a result with no step at all, -1 could be any width.
        width = math.prod(x.shape[1:]) if known else tf.reduce_prod(shape[1:])
        return tf.reshape(x, (shape[0], width))

    def broadcast_to(self, x: Tensor, like: Tensor) -> Tensor:
        """See `ArrayNamespace.broadcast_to`."""
        return tf.broadcast_to(x, tf.shape(like))

    def full_like(self, x: Tensor, value: float) -> Tensor:
        """See `ArrayNamespace.full_like`."""
        return tf.fill(tf.shape(x), tf.constant(value, x.dtype))

    def take_last(self, x: Tensor, index: Tensor) -> Tensor:
        """See `ArrayNamespace.take_last`."""
        return tf.gather(x, index, axis=1, batch_dims=1)

    def first_largest(self, x: Tensor) -> Tensor:
        """See `ArrayNamespace.first_largest`."""
        # `tf.argmax` is not documented to return the first of equals.
        columns = tf.range(tf.shape(x)[1])
        largest = tf.where(x == tf.reduce_max(x, 1, keepdims=True), columns, tf.shape(x)[1])
        return columns == tf.reduce_min(largest, 1, keepdims=True)

    def episode_sum(self, x: Tensor, episode: Tensor) -> Tensor:
        """See `ArrayNamespace.episode_sum`; there are no more episodes than steps."""
        return tf.gather(tf.math.unsorted_segment_sum(x, episode, tf.shape(x)[0]), episode)

    def episode_mean(self, x: Tensor, episode: Tensor) -> Tensor:
        """See `ArrayNamespace.episode_mean`."""
        return self.episode_sum(x, episode) / self.episode_sum(tf.ones_like(x), episode)


xp = cast("ArrayNamespace", TensorflowNamespace())
