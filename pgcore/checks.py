"""Checks of single values, for the fields of specs, estimators and optimizers.

Each returns the value as a plain Python number, so that NumPy scalars are welcome and a spec still goes to JSON, and raises
`SpecError`, or the error class given, in the wording that all of pgcore's errors have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real

from pgcore.errors import PgcoreError, SpecError

__all__ = ["count", "number", "one_of", "positive", "set_field", "unit_interval"]


def count(where: str, value: object, error: type[PgcoreError] = SpecError) -> int:
    """Return the value as an int, or raise unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise error(f"{where}: expected an integer of at least 1, got {value!r}; give a count")
    return int(value)


def number(where: str, value: object, error: type[PgcoreError] = SpecError, *, least: float = -math.inf) -> float:
    """Return the value as a float, or raise unless it is a finite number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or value < least:
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise error(f"{where}: expected a finite number{bound}, got {value!r}; change this value")
    return float(value)


def positive(where: str, value: object, error: type[PgcoreError] = SpecError) -> float:
    """Return the value as a float, or raise unless it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise error(f"{where}: expected a positive number, got {value!r}; give a value above 0")
    return float(value)


def unit_interval(where: str, value: object, error: type[PgcoreError] = SpecError) -> float:
    """Return the value as a float, or raise unless it is a number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise error(f"{where}: expected a number in [0, 1], got {value!r}; change this value")
    return float(value)


def one_of(where: str, value: object, choices: Iterable[str], error: type[PgcoreError] = SpecError) -> None:
    """Raise unless the value is one of the choices."""
    known = tuple(choices)
    if value not in known:
        raise error(f"{where}: expected one of {', '.join(map(repr, known))}, got {value!r}; choose one of them")


def set_field(instance: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass from its `__post_init__`."""
    object.__setattr__(instance, name, value)
