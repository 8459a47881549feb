"""The array namespace `xp` over autograd's arrays, with `ArrayNamespace`'s subgradients."""

from __future__ import annotations

from typing import Any, cast

import autograd.numpy as anp
import numpy as np
from autograd.extend import defvjp, primitive
from autograd.numpy.numpy_vjps import unbroadcast_f
from autograd.tracer import getval

from pgcore.xp.namespace import ArrayNamespace
from pgcore.xp.numpy import host

__all__ = ["HipsNamespace", "tied", "xp"]

Traced = Any  # an array, or autograd's box around one


@primitive
def choose(condition: Any, x: Any, y: Any) -> Any:
    """Return NumPy's `where`; autograd's own has a derivative in float64, whatever the dtype."""
    return host.where(condition, x, y)


# A number in the place of the other array leaves the cotangent's dtype as it is.
defvjp(
    choose,
    lambda _, condition, x, _y: unbroadcast_f(x, lambda g: choose(condition, g, 0.0)),
    lambda _, condition, _x, y: unbroadcast_f(y, lambda g: choose(condition, 0.0, g)),
    argnums=(1, 2),
)


@primitive
def sigmoid(x: Any) -> Any:
    """Return the core's logistic function."""
    return host.sigmoid(x)


# sigmoid(-x) is 1 - sigmoid(x) without its cancellation.
defvjp(sigmoid, lambda value, x: lambda g: g * value * sigmoid(-x))


@primitive
def log_softmax(x: Any, axis: int) -> Any:
    """Return the core's normalised logarithms."""
    return host.log_softmax(x, axis)


def log_softmax_pullback(value: Any, _: Any, axis: int) -> Any:
    """Return the function from a cotangent to g - p sum(g), p the probabilities."""
    return lambda g: g - anp.exp(value) * anp.sum(g, axis, keepdims=True)


defvjp(log_softmax, log_softmax_pullback)


@primitive
def episode_sum(x: Any, episode: Any) -> Any:
    """Return the core's sums over episodes."""
    return host.episode_sum(x, episode)


# The matrix of the sum is symmetric: two steps are in one episode or are not.
defvjp(episode_sum, lambda _, _x, episode: lambda g: episode_sum(g, episode))


@primitive
def repeated(x: Any, shape: tuple[int, ...]) -> Any:
    """Return NumPy's `broadcast_to`; autograd's own has no derivative where axes are added."""
    return np.broadcast_to(x, shape)


defvjp(repeated, lambda _, x, _shape: unbroadcast_f(x, lambda g: g))


@primitive
def tied(value: Any, _: Any) -> Any:
    """Return `value` as a function of the second argument, of derivative 0 beside its own.

    autograd warns of a function that does not depend on its argument.
    """
    return value


defvjp(tied, lambda _, _value, _at: lambda g: g, None)


class HipsNamespace:
    """See `pgcore.xp.namespace.ArrayNamespace`.

    Each function with a non-differentiable point is a choice by `where`, since autograd splits
    the gradient on a tie.
    """

    # Functions that autograd has with the same arguments and derivatives.
    exp = staticmethod(anp.exp)
    log = staticmethod(anp.log)
    sqrt = staticmethod(anp.sqrt)
    tanh = staticmethod(anp.tanh)
    matmul = staticmethod(anp.matmul)
    sum = staticmethod(anp.sum)
    concatenate = staticmethod(anp.concatenate)

    # Functions with a derivative of their own, above.
    sigmoid = staticmethod(sigmoid)
    where = staticmethod(choose)
    log_softmax = staticmethod(log_softmax)
    episode_sum = staticmethod(episode_sum)

    def stop_gradient(self, x: Traced) -> Traced:
        """See `ArrayNamespace.stop_gradient`."""
        return getval(x)

    def relu(self, x: Traced) -> Traced:
        """See `ArrayNamespace.relu`."""
        return choose(x <= 0, 0.0, x)

    def abs(self, x: Traced) -> Traced:
        """See `ArrayNamespace.abs`."""
        return choose(x == 0, 0.0, choose(x < 0, -x, x))

    def maximum(self, x: Traced, y: Traced) -> Traced:
        """See `ArrayNamespace.maximum`."""
        return choose((x >= y) | (x != x), x, y)  # noqa: PLR0124 - NaN alone differs from itself

    def minimum(self, x: Traced, y: Traced) -> Traced:
        """See `ArrayNamespace.minimum`."""
        return choose((x <= y) | (x != x), x, y)  # noqa: PLR0124 - see `maximum`

    def clip(self, x: Traced, low: Any, high: Any) -> Traced:
        """See `ArrayNamespace.clip`."""
        return choose(x < low, low, choose(x > high, high, x))

    def convolve(self, x: Traced, kernel: Traced, stride: int) -> Traced:
        """See `ArrayNamespace.convolve`: indices and a product, which have derivatives here."""
        return host.convolve(x, kernel, stride)

    def flatten(self, x: Traced) -> Traced:
        """See `ArrayNamespace.flatten`."""
        return host.flatten(x)

    def broadcast_to(self, x: Traced, like: Traced) -> Traced:
        """See `ArrayNamespace.broadcast_to`."""
        return repeated(x, like.shape)

    def full_like(self, x: Traced, value: float) -> Traced:
        """See `ArrayNamespace.full_like`."""
        return np.full(x.shape, value, x.dtype)

    def take_last(self, x: Traced, index: Traced) -> Traced:
        """See `ArrayNamespace.take_last`."""
        return x[np.arange(len(index)), index]

    def take_rows(self, x: Traced, index: Traced) -> Traced:
        """See `ArrayNamespace.take_rows`."""
        return x[index]

    def first_largest(self, x: Traced) -> Traced:
        """See `ArrayNamespace.first_largest`."""
        return host.first_largest(getval(x))

    def episode_mean(self, x: Traced, episode: Traced) -> Traced:
        """See `ArrayNamespace.episode_mean`."""
        return episode_sum(x, episode) / host.episode_sum(np.ones(x.shape, x.dtype), episode)


xp = cast("ArrayNamespace", HipsNamespace())
