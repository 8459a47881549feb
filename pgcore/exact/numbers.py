"""Numbers that estimators run on exactly: Fractions that nothing rounds unseen, and logarithms that only their exponential takes away.

NumPy's `exp` and `log` call the methods of that name on arrays of objects, so an estimator's own code runs on these as it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from functools import total_ordering
from numbers import Integral
from typing import Any

import numpy as np

from pgcore.arrays import Array

__all__ = ["Log", "Number", "logs", "numbers"]


class Number(Fraction):
    """A Fraction whose results are Numbers too. Floats are taken where they are whole, as counts and flags are, and refused else."""

    __slots__ = ()

    def __float__(self) -> float:
        """Refuse to be rounded."""
        raise TypeError("expected exact arithmetic, got a conversion to float")

    def __neg__(self) -> Number:
        """Return the negative."""
        return Number(super().__neg__())

    def __abs__(self) -> Number:
        """Return the magnitude."""
        return Number(super().__abs__())

    def exp(self) -> Number:
        """Return 1 for 0; of any other Fraction the exponential is none."""
        if self != 0:
            raise TypeError(f"expected exact arithmetic, got exp({self})")
        return Number(1)

    def log(self) -> Log:
        """Return the logarithm."""
        return Log(self)


def whole(other: Any) -> Any:
    """Return a Fraction or an integer as it is, and a whole float as an integer; raise TypeError for what has been rounded."""
    if isinstance(other, Fraction | int):
        return other
    if isinstance(other, Integral) or (isinstance(other, float) and other.is_integer()):
        return int(other)
    raise TypeError(f"expected exact arithmetic, got {type(other).__name__}")


def _closed(name: str) -> Callable[[Number, Any], Any]:
    """Return the Fractions' operation with Numbers as its results."""
    plain = getattr(Fraction, name)

    def operation(self: Number, other: Any) -> Any:
        return NotImplemented if isinstance(other, Log) else Number(plain(self, whole(other)))

    return operation


for _name in ("add", "sub", "mul", "truediv"):
    for _method in (f"__{_name}__", f"__r{_name}__"):
        setattr(Number, _method, _closed(_method))
Number.__pow__ = _closed("__pow__")  # pyright: ignore[reportAttributeAccessIssue]


@total_ordering
class Log:
    """The logarithm of a positive Fraction: sums are products, and its exponential is exact."""

    __slots__ = ("of",)

    def __init__(self, of: Fraction | int) -> None:
        """Keep what it is the logarithm of."""
        self.of = Number(of)

    def exp(self) -> Number:
        """Return what it is the logarithm of."""
        return self.of

    def __add__(self, other: Any) -> Log:
        """Return the sum with a logarithm, or with 0."""
        return Log(self.of * _logarithm(other).of)

    def __sub__(self, other: Any) -> Log:
        """Return the difference to a logarithm, or to 0."""
        return Log(self.of / _logarithm(other).of)

    def __rsub__(self, other: Any) -> Log:
        """Return the difference of a logarithm, or of 0, to this."""
        return Log(_logarithm(other).of / self.of)

    def __neg__(self) -> Log:
        """Return the logarithm of one over it."""
        return Log(1 / self.of)

    def __mul__(self, other: Any) -> Log:
        """Return the multiple by a whole number; of log 1 = 0 any."""
        if self.of == 1:
            return self
        times = whole(other)
        if times != int(times):
            raise TypeError("expected exact arithmetic, got a part of a logarithm, which is a root")
        return Log(self.of ** int(times))

    def __truediv__(self, other: Any) -> Log:
        """Return the quotient by a number that leaves no root."""
        return self * (1 / Number(whole(other)))

    __radd__, __rmul__ = __add__, __mul__

    def __eq__(self, other: object) -> bool:
        """Whether both are one number."""
        return self.of == other.of if isinstance(other, Log) else self._float() == other

    def __lt__(self, other: Any) -> bool:
        """Compare with a logarithm exactly, or with a float."""
        return self.of < other.of if isinstance(other, Log) else self._float() < other

    def __hash__(self) -> int:
        """Return the hash of what it is the logarithm of."""
        return hash(self.of)

    def _float(self) -> float:
        return math.log(self.of.numerator) - math.log(self.of.denominator)


def _logarithm(other: Any) -> Log:
    """Return a logarithm as it is, and 0 as that of 1."""
    if isinstance(other, Log):
        return other
    if whole(other) != 0:
        raise TypeError(f"expected exact arithmetic, got a logarithm and {other}")
    return Log(1)


def numbers(array: Array) -> Array:
    """Return the Fractions as Numbers."""
    return np.array([Number(each) for each in array.flat], object).reshape(array.shape)


def logs(array: Array) -> Array:
    """Return the logarithms of positive Fractions."""
    found = np.empty(array.size, object)
    for index, each in enumerate(array.flat):
        found[index] = Log(each)
    return found.reshape(array.shape)
