"""The array namespace `xp` over JAX arrays, with `ArrayNamespace`'s subgradients."""

from __future__ import annotations

import math
from typing import Any, cast

import jax
import jax.numpy as jnp

from pgcore.xp.namespace import ArrayNamespace

__all__ = ["JaxNamespace", "xp"]

Array = jax.Array


class JaxNamespace:
    """See `pgcore.xp.namespace.ArrayNamespace`.

    Each function with a non-differentiable point is a choice by `where`, so that none of JAX's own
    subgradients matters.
    """

    # Functions that JAX has with the same arguments and derivatives.
    exp = staticmethod(jnp.exp)
    log = staticmethod(jnp.log)
    sqrt = staticmethod(jnp.sqrt)
    tanh = staticmethod(jnp.tanh)
    sigmoid = staticmethod(jax.nn.sigmoid)
    where = staticmethod(jnp.where)
    sum = staticmethod(jnp.sum)
    concatenate = staticmethod(jnp.concatenate)
    full_like = staticmethod(jnp.full_like)
    log_softmax = staticmethod(jax.nn.log_softmax)
    stop_gradient = staticmethod(jax.lax.stop_gradient)

    def relu(self, x: Array) -> Array:
        """See `ArrayNamespace.relu`."""
        return jnp.where(x <= 0, 0.0, x)

    def abs(self, x: Array) -> Array:
        """See `ArrayNamespace.abs`; JAX's own derivative at 0 is 1."""
        return jnp.where(x == 0, 0.0, jnp.where(x < 0, -x, x))

    def maximum(self, x: Array, y: Array) -> Array:
        """See `ArrayNamespace.maximum`; JAX's own splits the gradient on a tie."""
        return jnp.where((x >= y) | (x != x), x, y)  # noqa: PLR0124 - NaN alone differs from itself

    def minimum(self, x: Array, y: Array) -> Array:
        """See `ArrayNamespace.minimum`; JAX's own splits the gradient on a tie."""
        return jnp.where((x <= y) | (x != x), x, y)  # noqa: PLR0124 - see `maximum`

    def clip(self, x: Array, low: Any, high: Any) -> Array:
        """See `ArrayNamespace.clip`; JAX's own derivative at a bound is one half."""
        return jnp.where(x < low, low, jnp.where(x > high, high, x))

    def matmul(self, x: Array, y: Array) -> Array:
        """See `ArrayNamespace.matmul`; some devices would rather multiply in less precision."""
        return jnp.matmul(x, y, precision="highest")

    def convolve(self, x: Array, kernel: Array, stride: int) -> Array:
        """See `ArrayNamespace.convolve`; in full precision, as `matmul`."""
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )

    def flatten(self, x: Array) -> Array:
        """See `ArrayNamespace.flatten`."""
        return x.reshape(x.shape[0], math.prod(x.shape[1:]))

    def broadcast_to(self, x: Array, like: Array) -> Array:
        """See `ArrayNamespace.broadcast_to`."""
        return jnp.broadcast_to(x, like.shape)

    def take_last(self, x: Array, index: Array) -> Array:
        """See `ArrayNamespace.take_last`; a choice compiles in less time than a gather's scatter."""
        return jnp.sum(jnp.where(jnp.arange(x.shape[1]) == index[:, None], x, 0.0), 1)

    def take_rows(self, x: Array, index: Array) -> Array:
        """See `ArrayNamespace.take_rows`."""
        return x[index]

    def first_largest(self, x: Array) -> Array:
        """See `ArrayNamespace.first_largest`."""
        return jnp.arange(x.shape[1]) == jnp.argmax(x, 1)[:, None]

    def episode_sum(self, x: Array, episode: Array) -> Array:
        """See `ArrayNamespace.episode_sum`; there are no more episodes than steps."""
        return jnp.zeros_like(x).at[episode].add(x)[episode]

    def episode_mean(self, x: Array, episode: Array) -> Array:
        """See `ArrayNamespace.episode_mean`."""
        return self.episode_sum(x, episode) / self.episode_sum(jnp.ones_like(x), episode)


xp = cast("ArrayNamespace", JaxNamespace())
