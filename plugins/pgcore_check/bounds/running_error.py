"""Arithmetic that carries a bound on the rounding error with each value.

A `Bounded` array holds values in extended precision and an error `e`, in units of the working
precision's roundoff u. A correct evaluation of the same formula in working precision is within
u * e of the value, to first order; an exponent may be uncertain by more than 1, as a log-probability
of -1e18 is. The rules, v a result:

    + and -         e_a + e_b + |v|
    *               |a| e_b + |b| e_a + |v|
    /               (e_a + |v| e_b) / |b| + |v|
    matrix product  |A| e_B + e_A |B| + n |A| |B|
    sum of n        sum e + n sum |x|
    a to the b      |b v / a| e_a + |v log a| e_b + 8 |v|
    exp             |v| ((exp(u e) - 1) / u + 8)
    log             e / |a| + 8 |v|
    tanh            (1 - v^2) e + 8 |v|
    sqrt            e / (2 v) + |v|

A product, quotient or exponential may also underflow, and frameworks flush subnormal results to 0:
each adds `floor`, the smallest normal number in units of u. The n in sums and products covers any
order of summation. Comparisons, maxima and choices add no error: a point within rounding of a kink
has no power, and belongs to `kinks`. The distance of a comparison from its other outcome can be
recorded. So can the largest relative error of an argument of `/`, exp, log or tanh: to first order
holds only where it is small.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import reduce
from typing import Any

import numpy as np

from pgcore.validation.arrays import Array

__all__ = ["Bounded", "bounded", "bounded_in", "choices", "distortions", "magnitudes"]

# The unit, as a share of e, in which distances beside 0 are measured: 1,000 u of it are 4 u e, the
# limit of agreement.
ERROR_SHARE = 4e-3

# The exponent below which the exponential is 0 in float64.
NEGLIGIBLE = -746.0

# The roundoff u by `Bounded.floor`.
ROUNDOFF = {
    float(limits.tiny) / (float(limits.eps) / 2): float(limits.eps) / 2
    for limits in map(np.finfo, (np.float32, np.float64))
}

# The largest bound of an exponential: its products stay within extended precision.
UNKNOWN = np.longdouble("1e600")

# The largest power that is computed as a product.
MOST_FACTORS = 16

_choices: ContextVar[list[float] | None] = ContextVar("choices", default=None)
_distortions: ContextVar[list[float] | None] = ContextVar("distortions", default=None)
_magnitudes: ContextVar[list[float] | None] = ContextVar("magnitudes", default=None)


@contextmanager
def choices() -> Generator[list[float]]:
    """Give a list to which each comparison adds the distance of its nearest entry from a kink.

    The distance is relative to the numbers compared. Where their bounds are far larger, as beside
    0, it is relative to `ERROR_SHARE` of the bounds: 1,000 u from a kink is then as far as the rule
    lets rounding lead. Two kinds of numbers are at no kink: exact ones, and those that are equal to
    the last digit of extended precision, which a formula makes equal, such as padding's.
    """
    distances: list[float] = []
    token = _choices.set(distances)
    try:
        yield distances
    finally:
        _choices.reset(token)


@contextmanager
def distortions() -> Generator[list[float]]:
    """Give a list to which nonlinear functions add their arguments' largest relative errors.

    They are in units of roundoff. The error of an exponent counts as it is, since it is that of the
    result. Arguments of 0 are not counted: they belong to a branch that is not taken.
    """
    recorded: list[float] = []
    token = _distortions.set(recorded)
    try:
        yield recorded
    finally:
        _distortions.reset(token)


@contextmanager
def magnitudes() -> Generator[list[float]]:
    """Give a list to which products, quotients and exponentials add their largest finite value."""
    recorded: list[float] = []
    token = _magnitudes.set(recorded)
    try:
        yield recorded
    finally:
        _magnitudes.reset(token)


def _sized(value: Array) -> Array:
    """Return values, and record their largest where a list is there for it; see `magnitudes`."""
    recorded = _magnitudes.get()
    if recorded is not None:
        size = np.abs(value)
        recorded.append(float(size.max(initial=0, where=np.isfinite(size))))
    return value


def _distorted(relative: Callable[[], Array]) -> None:
    """Record relative errors where a list is there for them; see `distortions`."""
    recorded = _distortions.get()
    if recorded is not None:
        with np.errstate(all="ignore"):
            errors = relative()
        recorded.append(float(errors.max(initial=0, where=np.isfinite(errors))))


class Bounded:
    """An array of values with an array of error bounds; NumPy's functions below work on it.

    Attributes:
        value: Values, `np.longdouble`.
        error: Bounds of the same shape, in units of roundoff.
        floor: The error of an underflow, in units of roundoff; 0 stands for an unlimited range of
            exponents.
    """

    # Keeps NumPy from taking a Bounded apart when it is the right operand.
    __array_priority__ = 1000

    def __init__(self, value: Array, error: Array, floor: float = 0.0) -> None:
        """Keep all."""
        self.value = value
        self.error = error
        self.floor = floor

    @property
    def shape(self) -> tuple[int, ...]:
        """The values' shape."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.value.ndim

    def __len__(self) -> int:
        """Return the length of the first axis."""
        return len(self.value)

    def __abs__(self) -> Bounded:
        """The absolute value is exact."""
        return Bounded(np.abs(self.value), self.error, self.floor)

    @property
    def T(self) -> Bounded:  # noqa: N802 - NumPy's name
        """The transpose."""
        return Bounded(self.value.T, self.error.T, self.floor)

    def __getitem__(self, index: Any) -> Bounded:
        """Return a part."""
        return Bounded(self.value[index], self.error[index], self.floor)

    def __neg__(self) -> Bounded:
        """Negation is exact."""
        return Bounded(-self.value, self.error, self.floor)

    def __add__(self, addend: Any) -> Bounded:
        """See the rules."""
        b = bounded(addend)
        value = self.value + b.value
        return Bounded(value, self.error + b.error + np.abs(value), max(self.floor, b.floor))

    def __sub__(self, subtrahend: Any) -> Bounded:
        """See the rules."""
        return self + -bounded(subtrahend)

    def __mul__(self, factor: Any) -> Bounded:
        """See the rules."""
        b = bounded(factor)
        value = _sized(self.value * b.value)
        floor = max(self.floor, b.floor)
        error = np.abs(self.value) * b.error + np.abs(b.value) * self.error + np.abs(value)
        return Bounded(value, error + floor, floor)

    def __truediv__(self, divisor: Any) -> Bounded:
        """See the rules."""
        b = bounded(divisor)
        _distorted(lambda: b.error / np.abs(b.value))
        value = _sized(self.value / b.value)
        floor = max(self.floor, b.floor)
        error = (self.error + np.abs(value) * b.error) / np.abs(b.value) + np.abs(value)
        return Bounded(value, error + floor, floor)

    def __matmul__(self, right: Any) -> Bounded:
        """See the rules."""
        a, b = self, bounded(right)
        size_a, size_b = np.abs(a.value), np.abs(b.value)
        count, floor = a.value.shape[-1], max(a.floor, b.floor)
        error = size_a @ b.error + a.error @ size_b + count * (size_a @ size_b + floor)
        return Bounded(a.value @ b.value, error, floor)

    def __pow__(self, exponent: Any) -> Bounded:
        """Return a power; that of a small positive integer is computed as a product."""
        if isinstance(exponent, int) and 1 <= exponent <= MOST_FACTORS:
            return reduce(operator.mul, [self] * exponent)
        return _power(self, bounded(exponent))

    def __rpow__(self, base: Any) -> Bounded:
        """See the rules."""
        return _power(bounded(base), self)

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, minuend: Any) -> Bounded:
        """See the rules."""
        return bounded(minuend) - self

    def __rtruediv__(self, dividend: Any) -> Bounded:
        """See the rules."""
        return bounded(dividend) / self

    def __gt__(self, right: Any) -> Array:
        """Compare values."""
        return self.value > self._compared(right)

    def __ge__(self, right: Any) -> Array:
        """Compare values."""
        return self.value >= self._compared(right)

    def __lt__(self, right: Any) -> Array:
        """Compare values."""
        return self.value < self._compared(right)

    def __le__(self, right: Any) -> Array:
        """Compare values."""
        return self.value <= self._compared(right)

    def __eq__(self, right: object) -> Any:
        """Compare values, entry by entry."""
        return self.value == self._compared(right)

    def __ne__(self, right: object) -> Any:
        """Compare values, entry by entry."""
        return self.value != self._compared(right)

    __hash__ = None  # pyright: ignore[reportAssignmentType] - as NumPy's arrays have none

    def _compared(self, right: Any) -> Array:
        """Return the operand's values, and record the distance of the comparison; see `choices`."""
        b, record = bounded(right), _choices.get()
        if record is None:
            return b.value
        # No choice beside infinity is near: infinity less infinity is not counted.
        with np.errstate(invalid="ignore"):
            apart = np.abs(self.value - b.value)
            error = np.maximum(self.error, b.error) * ERROR_SHARE
        size = np.maximum(np.maximum(np.abs(self.value), np.abs(b.value)), error)
        counted = (error > 0) & (apart > 0) & np.isfinite(size)
        near = np.where(counted, apart, np.inf) / np.where(counted, size, 1)
        record.append(float(near.min(initial=np.inf)))
        return b.value

    def sum(self, axis: int | None = None, *, keepdims: bool = False) -> Bounded:
        """See the rules."""
        count = self.value.size if axis is None else self.value.shape[axis]
        value, size, error = (
            array.sum(axis=axis, keepdims=keepdims)
            for array in (self.value, np.abs(self.value), self.error)
        )
        return Bounded(value, error + count * size, self.floor)

    def reshape(self, *shape: int) -> Bounded:
        """Return the same numbers in another shape."""
        return Bounded(self.value.reshape(*shape), self.error.reshape(*shape), self.floor)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **_: Any) -> Any:
        """Apply NumPy's elementary functions and operators to arrays and bounded arrays."""
        if method != "__call__" or ufunc.__name__ not in UFUNCS:
            raise TypeError(
                f"Bounded: expected one of {', '.join(UFUNCS)}, "
                f"got {ufunc.__name__}.{method}; add its error rule"
            )
        return UFUNCS[ufunc.__name__](*inputs)

    def __array_function__(
        self,
        function: Callable[..., Any],
        _types: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Apply the functions of `FUNCTIONS` to arrays and bounded arrays."""
        if function.__name__ not in FUNCTIONS:
            raise TypeError(
                f"Bounded: expected one of {', '.join(FUNCTIONS)}, "
                f"got {function.__name__}; add its error rule"
            )
        return FUNCTIONS[function.__name__](*args, **kwargs)


# The types of constants that spoil float64.
COARSE: tuple[type, ...] = (np.float16, np.float32)


def bounded(value: Any) -> Bounded:
    """Return the value as a bounded array.

    Arrays and integers are inputs, and exact. A single float is a formula's constant, which is
    rounded to the working precision.

    Raises:
        TypeError: it is a constant of single or half precision, which spoils float64.
    """
    if isinstance(value, Bounded):
        return value
    if isinstance(value, COARSE):
        raise TypeError(
            f"formula: expected constants that are Python's numbers, got {type(value).__name__} "
            f"{value}; write a plain number, which is not rounded before a backend uses it"
        )
    exact = np.asarray(value, np.longdouble)
    constant = isinstance(value, float | np.floating)
    return Bounded(exact, np.abs(exact) if constant else np.zeros_like(exact))


def bounded_in(dtype: np.dtype[Any]) -> Callable[[Array], Bounded]:
    """Return a function from input arrays to bounded arrays with the floor of a dtype."""
    limits = np.finfo(dtype)
    floor = float(limits.tiny) / (float(limits.eps) / 2)

    def lift(array: Array) -> Bounded:
        plain = bounded(np.asarray(array))
        return Bounded(plain.value, plain.error, floor)

    return lift


def _exp(x: Bounded) -> Bounded:
    value = _sized(np.exp(x.value))
    # Where even an error of the whole bound leaves the result at 0 there is nothing to distort.
    _distorted(lambda: np.where(x.value + x.error * 2.0**-24 > NEGLIGIBLE, x.error, 0))
    error = 8 * value + x.floor + _exponential_error(x, value)
    # exp(-inf) is exactly 0, whatever the bound of -inf is.
    return Bounded(value, np.where(x.value == -np.inf, 0, error), x.floor)


def _exponential_error(x: Bounded, value: Array) -> Array:
    """Return the error of exp(x) that x's own causes, in units of roundoff."""
    roundoff = ROUNDOFF.get(x.floor)
    if roundoff is None:
        return value * x.error
    shift = roundoff * x.error
    with np.errstate(over="ignore", invalid="ignore"):
        # Where the exponent is uncertain the value alone may be 0.
        error = np.where(shift < 1, value * np.expm1(shift), np.exp(x.value + shift) - value)
    return np.minimum(error / roundoff, UNKNOWN)


def _log(x: Bounded) -> Bounded:
    value = np.log(x.value)
    _distorted(lambda: x.error / np.abs(x.value))
    return Bounded(value, x.error / np.abs(x.value) + 8 * np.abs(value), x.floor)


def _tanh(x: Bounded) -> Bounded:
    value = np.tanh(x.value)
    _distorted(lambda: x.error * (1 - value * value))
    return Bounded(value, (1 - value * value) * x.error + 8 * np.abs(value), x.floor)


def _sqrt(x: Bounded) -> Bounded:
    value = np.sqrt(x.value)
    # A number that should be 0 and is e u has a root of at most sqrt(e / u) in units of u; no u is
    # less than 2^-54.
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.where(value > 0, x.error / (2 * value), np.sqrt(x.error) * 2.0**27)
    return Bounded(value, error + value, x.floor)


def _power(base: Bounded, exponent: Bounded) -> Bounded:
    a, b = base.value, exponent.value
    value = a**b
    # The derivatives are b a^(b - 1) and a^b log a; a factor of 0 takes no part, whatever the other.
    slope = np.where(b == 0, 0, np.abs(b) * np.abs(a) ** (b - 1))
    logarithm = np.abs(np.log(np.where(a > 0, a, 1)))
    floor = max(base.floor, exponent.floor)
    error = slope * base.error + np.abs(value) * (logarithm * exponent.error + 8)
    return Bounded(value, error + floor, floor)


def _where(condition: Array, x: Any, y: Any) -> Bounded:
    a, b = bounded(x), bounded(y)
    return Bounded(
        np.where(condition, a.value, b.value),
        np.where(condition, a.error, b.error),
        max(a.floor, b.floor),
    )


def _concatenate(parts: tuple[Any, ...], axis: int = 0) -> Bounded:
    all_bounded = [bounded(part) for part in parts]
    return Bounded(
        np.concatenate([part.value for part in all_bounded], axis),
        np.concatenate([part.error for part in all_bounded], axis),
        max(part.floor for part in all_bounded),
    )


def _full_like(x: Any, value: float) -> Bounded:
    shape: tuple[int, ...] = x.shape
    floor: float = getattr(x, "floor", 0.0)
    return Bounded(
        np.full(shape, value, np.longdouble), np.full(shape, abs(value), np.longdouble), floor
    )


def _operator(name: str) -> Callable[[Any, Any], Any]:
    """Return the operator as Bounded defines it, whichever operand is one."""

    def apply(x: Any, y: Any) -> Any:
        return getattr(bounded(x), name)(y)

    return apply


def _maximum(x: Any, y: Any) -> Bounded:
    return _where(bounded(x) >= y, x, y)


def _minimum(x: Any, y: Any) -> Bounded:
    return _where(bounded(x) <= y, x, y)


# The error rule of each NumPy function, by its name; operators go to the methods above.
UFUNCS: dict[str, Callable[..., Any]] = {
    "exp": _exp,
    "log": _log,
    "tanh": _tanh,
    "sqrt": _sqrt,
    "maximum": _maximum,
    "minimum": _minimum,
    "absolute": operator.abs,
    "negative": operator.neg,
    "add": _operator("__add__"),
    "subtract": _operator("__sub__"),
    "multiply": _operator("__mul__"),
    "divide": _operator("__truediv__"),
    "matmul": _operator("__matmul__"),
    "power": _operator("__pow__"),
    "equal": _operator("__eq__"),
    "not_equal": _operator("__ne__"),
    "greater": _operator("__gt__"),
    "greater_equal": _operator("__ge__"),
    "less": _operator("__lt__"),
    "less_equal": _operator("__le__"),
}

# The same for NumPy's functions that are no universal ones.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "where": _where,
    "concatenate": _concatenate,
    "full_like": _full_like,
}
