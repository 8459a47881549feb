"""Checks of single values, for the fields of specs, estimators and optimizers.

Each returns the value as a plain Python number, so that NumPy scalars are welcome and a spec still goes to JSON, and raises
`SpecError`, or the error class given, in the wording that all of pgcore's errors have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real

from pgcore.errors import PgcoreError, SpecError

__all__ = ["count", "flag", "number", "one_of", "positive", "positive_or_infinite", "set_field", "unit_interval"]


def count(where: str, value: object, error: type[PgcoreError] = SpecError) -> int:
    """Return the value as an int, or raise unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise error(f"{where}: expected an integer of at least 1, got {_shown(value)}; give a count")
    return int(value)


def number(where: str, value: object, error: type[PgcoreError] = SpecError, *, least: float = -math.inf) -> float:
    """Return the value as a float, or raise unless it is a finite number of at least `least`."""
    plain = _plain(value)
    if not math.isfinite(plain) or plain < least:
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise error(f"{where}: expected a finite number{bound}, got {_shown(value)}; change this value")
    return plain


def positive(where: str, value: object, error: type[PgcoreError] = SpecError) -> float:
    """Return the value as a float, or raise unless it is a finite number above 0."""
    plain = _plain(value)
    if not 0 < plain < math.inf:
        raise error(f"{where}: expected a positive number, got {_shown(value)}; give a finite value above 0")
    return plain


def positive_or_infinite(where: str, value: object, error: type[PgcoreError] = SpecError) -> float:
    """Return the value as a float, or raise unless it is a number above 0 or infinity."""
    plain = _plain(value)
    if not plain > 0:
        raise error(f"{where}: expected a number above 0 or math.inf, got {_shown(value)}; give one")
    return plain


def unit_interval(where: str, value: object, error: type[PgcoreError] = SpecError) -> float:
    """Return the value as a float, or raise unless it is a number in [0, 1]."""
    plain = _plain(value)
    if not 0 <= plain <= 1:
        raise error(f"{where}: expected a number in [0, 1], got {_shown(value)}; change this value")
    return plain


def flag(where: str, value: object, error: type[PgcoreError] = SpecError) -> None:
    """Raise unless the value is True or False."""
    if not isinstance(value, bool):
        raise error(f"{where}: expected True or False, got {_shown(value)}; choose one of them")


def one_of(where: str, value: object, choices: Iterable[object], error: type[PgcoreError] = SpecError) -> None:
    """Raise unless the value is one of the choices."""
    known = tuple(choices)
    if value not in known:
        raise error(f"{where}: expected one of {', '.join(map(repr, known))}, got {_shown(value)}; choose one of them")


def set_field(instance: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass from its `__post_init__`."""
    object.__setattr__(instance, name, value)


def _plain(value: object) -> float:
    """Return a real number as a float, infinity where it is too large for one, and NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _shown(value: object) -> str:
    """Return the value's repr, short enough for a message."""
    try:
        text = repr(value)
    except ValueError:  # Python does not write out integers of more than some thousand digits
        text = f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
