"""Derivatives of a formula along many directions at once, in any number system of the kit.

A `Dual` carries, with each value, its derivatives along `D` directions. A network's formula runs on
it as on any backend's arrays. Derivatives of a network that the kit has never seen thus follow from
the formula alone, without a backend or a hand-written closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np

from pgcore.xp.namespace import ArrayNamespace
from pgcore.xp.numpy import host
from pgcore_check.bounds.numbers import numbers, over_episodes, plain, spread

__all__ = ["Dual", "constant", "forward_mode"]

Number = Any  # an array of whichever number system the values are in


class Dual:
    """An array with its derivatives.

    Attributes:
        value: Any shape.
        slopes: [D, ...] the derivatives, of the value's shape behind the first axis; D is 1 where
            all of them are 0.
    """

    # NumPy's arrays leave every operation with a Dual to it.
    __array_ufunc__ = None

    def __init__(self, value: Number, slopes: Number) -> None:
        """Keep both; slopes are repeated to the value's shape."""
        full = (slopes.shape[0], *value.shape)
        self.value, self.slopes = value, slopes if slopes.shape == full else spread(slopes, full)

    @property
    def ndim(self) -> int:
        """The value's number of axes."""
        return len(self.value.shape)

    def __len__(self) -> int:
        """Return the length of the value's first axis."""
        return self.value.shape[0]

    def __abs__(self) -> Dual:
        """Return the absolute value."""
        return forward_mode.abs(self)

    @property
    def shape(self) -> tuple[int, ...]:
        """The value's shape."""
        return self.value.shape

    def __getitem__(self, index: Any) -> Dual:
        """Return a part."""
        places = cast("tuple[Any, ...]", index if isinstance(index, tuple) else (index,))
        return Dual(self.value[index], self.slopes[(slice(None), *places)])

    def reshape(self, *shape: int) -> Dual:
        """Return the same numbers in another shape."""
        value = self.value.reshape(*shape)
        return Dual(value, self.slopes.reshape(self.slopes.shape[0], *value.shape))

    def sum(self, axis: int, *, keepdims: bool = False) -> Dual:
        """Return the sum over one axis."""
        place = axis % self.ndim
        value = self.value.sum(axis=place, keepdims=keepdims)
        return Dual(value, self.slopes.sum(axis=place + 1, keepdims=keepdims))

    def __neg__(self) -> Dual:
        """Return the negative."""
        return Dual(-self.value, -self.slopes)

    def __add__(self, addend: Any) -> Dual:
        """Return the sum."""
        a, b = aligned(self, addend)
        return Dual(self.value + value_of(addend), a + b)

    def __sub__(self, subtrahend: Any) -> Dual:
        """Return the difference."""
        a, b = aligned(self, subtrahend)
        return Dual(self.value - value_of(subtrahend), a - b)

    def __mul__(self, factor: Any) -> Dual:
        """Return the product."""
        a, b = aligned(self, factor)
        return Dual(self.value * value_of(factor), a * value_of(factor) + b * self.value)

    def __truediv__(self, divisor: Any) -> Dual:
        """Return the quotient."""
        a, b = aligned(self, divisor)
        value = self.value / value_of(divisor)
        return Dual(value, (a - b * value) / value_of(divisor))

    def __pow__(self, exponent: Any) -> Dual:
        """Return the power."""
        a, b = aligned(self, exponent)
        power = value_of(exponent)
        value = self.value**power
        # A factor of 0 takes no part, whatever the other is.
        slopes = a * np.where(power == 0, 0, power * self.value ** (power - 1))
        if isinstance(exponent, Dual):
            slopes = slopes + b * (value * numbers.log(self.value))
        return Dual(value, slopes)

    def __rpow__(self, base: Any) -> Dual:
        """Return the power."""
        return constant(self.value * 0 + base) ** self

    def __matmul__(self, right: Any) -> Dual:
        """Return the matrix product of [B, I] and [I, O]."""
        b = right if isinstance(right, Dual) else constant(right)
        return Dual(self.value @ b.value, self.slopes @ b.value + self.value @ b.slopes)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, minuend: Any) -> Dual:
        """Return the difference."""
        return -self + minuend

    def __rtruediv__(self, dividend: Any) -> Dual:
        """Return the quotient."""
        value = dividend / self.value
        return Dual(value, -self.slopes * value / self.value)

    def __rmatmul__(self, left: Any) -> Dual:
        """Return the matrix product."""
        return constant(left) @ self

    def __gt__(self, right: Any) -> Any:
        """Compare values."""
        return self.value > value_of(right)

    def __ge__(self, right: Any) -> Any:
        """Compare values."""
        return self.value >= value_of(right)

    def __lt__(self, right: Any) -> Any:
        """Compare values."""
        return self.value < value_of(right)

    def __le__(self, right: Any) -> Any:
        """Compare values."""
        return self.value <= value_of(right)

    def __eq__(self, right: object) -> Any:
        """Compare values, entry by entry."""
        return self.value == value_of(right)

    def __ne__(self, right: object) -> Any:
        """Compare values, entry by entry."""
        return self.value != value_of(right)

    __hash__ = None  # pyright: ignore[reportAssignmentType] - as NumPy's arrays have none


def constant(value: Number) -> Dual:
    """Return an array that no direction changes."""
    return Dual(value, np.zeros((1, *value.shape), np.longdouble))


def value_of(number: Any) -> Number:
    """Return a dual array's value, and any other number as it is."""
    return number.value if isinstance(number, Dual) else number


def aligned(*operands: Any) -> tuple[Number, ...]:
    """Return the derivatives of each, in shapes that broadcast as the values do."""
    rank = max(0 if np.isscalar(operand) else operand.ndim for operand in operands)
    slopes: list[Number] = []
    for number in operands:
        # The axis of directions stays first: axes of 1 are inserted behind it.
        if isinstance(number, Dual):
            count, *shape = number.slopes.shape
            slopes.append(number.slopes.reshape(count, *(1,) * (rank - len(shape)), *shape))
        else:
            slopes.append(np.zeros((1,) * (rank + 1), np.longdouble))
    return tuple(slopes)


class ForwardMode:
    """See `pgcore.xp.namespace.ArrayNamespace`."""

    def matmul(self, x: Dual, y: Dual) -> Dual:
        """See `ArrayNamespace.matmul`."""
        return x @ y

    def convolve(self, x: Dual, kernel: Dual, stride: int) -> Dual:
        """See `ArrayNamespace.convolve`."""
        return host.convolve(x, kernel, stride)

    def flatten(self, x: Dual) -> Dual:
        """See `ArrayNamespace.flatten`."""
        return host.flatten(x)

    def exp(self, x: Dual) -> Dual:
        """See `ArrayNamespace.exp`."""
        return chained(x, numbers.exp(x.value), lambda y: y)

    def log(self, x: Dual) -> Dual:
        """See `ArrayNamespace.log`."""
        return Dual(numbers.log(x.value), x.slopes / x.value)

    def sqrt(self, x: Dual) -> Dual:
        """See `ArrayNamespace.sqrt`."""
        return chained(x, numbers.sqrt(x.value), lambda y: 0.5 / y)

    def tanh(self, x: Dual) -> Dual:
        """See `ArrayNamespace.tanh`."""
        return chained(x, numbers.tanh(x.value), lambda y: 1 - y * y)

    def sigmoid(self, x: Dual) -> Dual:
        """See `ArrayNamespace.sigmoid`."""
        return chained(x, numbers.sigmoid(x.value), lambda y: y * (1 - y))

    def relu(self, x: Dual) -> Dual:
        """See `ArrayNamespace.relu`."""
        return self.where(x <= 0, 0.0, x)

    def abs(self, x: Dual) -> Dual:
        """See `ArrayNamespace.abs`."""
        # The derivative at 0 is 0, as `docs/conventions.md` says.
        return self.where(x < 0, -x, self.where(x == 0, 0.0, x))

    def maximum(self, x: Dual, y: Dual) -> Dual:
        """See `ArrayNamespace.maximum`."""
        # Equal numbers take the first one's derivative, in `minimum` too.
        first = value_of(x) >= value_of(y)
        return self.where(first | np.isnan(plain(value_of(x))), x, y)

    def minimum(self, x: Dual, y: Dual) -> Dual:
        """See `ArrayNamespace.minimum`."""
        first = value_of(x) <= value_of(y)
        return self.where(first | np.isnan(plain(value_of(x))), x, y)

    def clip(self, x: Dual, low: Any, high: Any) -> Dual:
        """See `ArrayNamespace.clip`."""
        return self.where(x < low, low, self.where(x > high, high, x))

    def where(self, condition: Any, x: Any, y: Any) -> Dual:
        """See `ArrayNamespace.where`."""
        a, b, _ = aligned(x, y, condition)
        return Dual(np.where(condition, value_of(x), value_of(y)), np.where(condition, a, b))

    def stop_gradient(self, x: Dual) -> Dual:
        """See `ArrayNamespace.stop_gradient`."""
        return constant(x.value)

    def sum(self, x: Dual, axis: int) -> Dual:
        """See `ArrayNamespace.sum`."""
        return x.sum(axis)

    def concatenate(self, arrays: tuple[Dual, ...], axis: int) -> Dual:
        """See `ArrayNamespace.concatenate`."""
        count = max(array.slopes.shape[0] for array in arrays)
        # An array that no direction changes has one row of slopes, repeated for all directions.
        spread = [array.slopes[np.arange(count) % array.slopes.shape[0]] for array in arrays]
        place = axis % len(arrays[0].shape)
        value = np.concatenate([array.value for array in arrays], place)
        return Dual(value, np.concatenate(spread, place + 1))

    def broadcast_to(self, x: Dual, like: Dual) -> Dual:
        """See `ArrayNamespace.broadcast_to`."""
        slopes, _ = aligned(x, like)
        return Dual(numbers.broadcast_to(x.value, like), slopes)

    def log_softmax(self, x: Dual, axis: int) -> Dual:
        """See `ArrayNamespace.log_softmax`."""
        shifted = x - plain(x.value).max(axis=axis, keepdims=True)
        return shifted - self.log(self.exp(shifted).sum(axis, keepdims=True))

    def full_like(self, x: Dual, value: float) -> Dual:
        """See `ArrayNamespace.full_like`."""
        return constant(numbers.full_like(x.value, value))

    def take_rows(self, x: Dual, index: Any) -> Dual:
        """See `ArrayNamespace.take_rows`."""
        return x[index]

    def take_last(self, x: Dual, index: Any) -> Dual:
        """See `ArrayNamespace.take_last`."""
        return x[np.arange(len(x)), index]

    def first_largest(self, x: Dual) -> Any:
        """See `ArrayNamespace.first_largest`."""
        return numbers.first_largest(x.value)

    def episode_sum(self, x: Dual, episode: Any) -> Dual:
        """See `ArrayNamespace.episode_sum`."""
        # Derivatives along the directions, [D, B]; every step is summed along its own column.
        slopes = over_episodes(
            lambda rows: x.slopes[:, rows].sum(axis=1).reshape(-1, 1), episode, axis=1
        )
        return Dual(numbers.episode_sum(x.value, episode), slopes)

    def episode_mean(self, x: Dual, episode: Any) -> Dual:
        """See `ArrayNamespace.episode_mean`."""
        count = np.bincount(episode - episode.min())[episode - episode.min()]
        return self.episode_sum(x, episode) / count


def chained(x: Dual, y: Number, slope: Callable[[Number], Number]) -> Dual:
    """Return an elementwise function's value `y` at `x`; `slope` gives its derivative from `y`."""
    return Dual(y, x.slopes * slope(y))


forward_mode: ArrayNamespace = ForwardMode()
