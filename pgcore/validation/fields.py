"""Checks of single values, and dataclasses whose fields declare the check that they need.

A check takes where the value stands, the value and an error class. It returns the value as a plain
Python number, so that NumPy scalars are welcome and a spec still goes to JSON, or raises the error.
A field declares its check in its annotation:

    @dataclass(frozen=True)
    class PPO(Estimator):
        clip: Positive = 0.2
        kl_target: Positive | None = 0.01
        objective: Annotated[str, choice("clip", "kl")] = "clip"
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar

from pgcore.errors import PgcoreError, SpecError

__all__ = [
    "Checked",
    "Count",
    "CountFromZero",
    "Decay",
    "Flag",
    "NonNegative",
    "Number",
    "Positive",
    "PositiveOrInfinite",
    "UnitInterval",
    "check_fields",
    "choice",
    "count",
    "count_from_zero",
    "decay",
    "flag",
    "non_negative",
    "number",
    "one_of",
    "positive",
    "positive_or_infinite",
    "set_field",
    "unit_interval",
]

Check = Callable[[str, object, type[PgcoreError]], Any]


def count(where: str, value: object, error: type[PgcoreError] = SpecError) -> int:
    """Return the value as an int, or raise unless it is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise error(
            f"{where}: expected an integer of at least 1, got {_shown(value)}; give a count"
        )
    return int(value)


def count_from_zero(where: str, value: object, error: type[PgcoreError] = SpecError) -> int:
    """Return the value as an int, or raise unless it is an integer of at least 0."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise error(
            f"{where}: expected an integer of at least 0, got {_shown(value)}; change this value"
        )
    return int(value)


def number(
    where: str, value: object, error: type[PgcoreError] = SpecError, *, least: float = -math.inf
) -> float:
    """Return the value as a float, or raise unless it is a finite number of at least `least`."""
    plain = _plain(value)
    if not math.isfinite(plain) or plain < least:
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise error(
            f"{where}: expected a finite number{bound}, got {_shown(value)}; change this value"
        )
    return plain


def non_negative(where: str, value: object, error: type[PgcoreError] = SpecError) -> float:
    """Return the value as a float, or raise unless it is a finite number of at least 0."""
    return number(where, value, error, least=0.0)


def positive(where: str, value: object, error: type[PgcoreError] = SpecError) -> float:
    """Return the value as a float, or raise unless it is a finite number above 0."""
    plain = _plain(value)
    if not 0 < plain < math.inf:
        raise error(
            f"{where}: expected a positive number, got {_shown(value)}; give a finite value above 0"
        )
    return plain


def positive_or_infinite(where: str, value: object, error: type[PgcoreError] = SpecError) -> float:
    """Return the value as a float, or raise unless it is a number above 0 or infinity."""
    plain = _plain(value)
    if not plain > 0:
        raise error(
            f"{where}: expected a number above 0 or math.inf, got {_shown(value)}; give one"
        )
    return plain


def unit_interval(where: str, value: object, error: type[PgcoreError] = SpecError) -> float:
    """Return the value as a float, or raise unless it is a number in [0, 1]."""
    plain = _plain(value)
    if not 0 <= plain <= 1:
        raise error(f"{where}: expected a number in [0, 1], got {_shown(value)}; change this value")
    return plain


def decay(where: str, value: object, error: type[PgcoreError] = SpecError) -> float:
    """Return the value as a float, or raise unless it is a number in [0, 1)."""
    plain = non_negative(where, value, error)
    if plain >= 1:
        raise error(f"{where}: expected a number in [0, 1), got {_shown(value)}; change this value")
    return plain


def flag(where: str, value: object, error: type[PgcoreError] = SpecError) -> bool:
    """Return the value, or raise unless it is True or False."""
    if not isinstance(value, bool):
        raise error(f"{where}: expected True or False, got {_shown(value)}; choose one of them")
    return value


def one_of(
    where: str, value: object, choices: Iterable[object], error: type[PgcoreError] = SpecError
) -> None:
    """Raise unless the value is one of the choices."""
    known = tuple(choices)
    if value not in known:
        raise error(
            f"{where}: expected one of {', '.join(map(repr, known))}, got {_shown(value)}; choose one of them"
        )


def choice(*choices: object) -> Check:
    """Return the check that a value is one of these; see `one_of`."""

    def check(where: str, value: object, error: type[PgcoreError] = SpecError) -> object:
        one_of(where, value, choices, error)
        return value

    return check


Count = Annotated[int, count]
CountFromZero = Annotated[int, count_from_zero]
Decay = Annotated[float, decay]
Number = Annotated[float, number]
NonNegative = Annotated[float, non_negative]
Positive = Annotated[float, positive]
PositiveOrInfinite = Annotated[float, positive_or_infinite]
UnitInterval = Annotated[float, unit_interval]
Flag = Annotated[bool, flag]


class Checked:
    """Base of frozen dataclasses whose fields declare their checks.

    A subclass with a rule that joins several fields writes `__post_init__` and calls this one first.

    Attributes:
        field_error: Raised where a field has a value that it cannot take.
        section: How errors name the dataclass; None is the name of its class.
    """

    __slots__ = ()
    field_error: ClassVar[type[PgcoreError]] = SpecError
    section: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Check every field that declares a check."""
        check_fields(self)


def check_fields(instance: Checked) -> None:
    """Replace each field that declares a check by the value that the check returns.

    Raises:
        PgcoreError: a field has a value that it cannot take; of the class `field_error`.
    """
    section = instance.section or type(instance).__name__
    for name, check, optional in declared_checks(type(instance)):
        value = getattr(instance, name)
        if value is None and optional:
            continue
        checked = check(f"{section}.{name}", value, instance.field_error)
        if checked is not value:
            set_field(instance, name, checked)


@functools.cache
def declared_checks(cls: type[Any]) -> tuple[tuple[str, Check, bool], ...]:
    """Return field name, check and whether None passes, for each field of a dataclass with a check.

    Fields of a class whose annotations cannot be evaluated, as with names that are imported for
    the type checker alone, have none. Annotations are evaluated among the class's attributes, so a
    field cannot have the name that its own annotation uses.
    """
    annotations: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        try:
            annotations |= inspect.get_annotations(base, eval_str=True)
        except Exception:  # noqa: BLE001, S112 (an annotation that nobody evaluates may hold anything)
            continue
    checks: list[tuple[str, Check, bool]] = []
    for field in dataclasses.fields(cls):
        annotation = annotations.get(field.name)
        # `Positive | None` is a union of an annotated type and None.
        members = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
        checks += [
            (field.name, check, type(None) in members)
            for member in members
            for check in getattr(member, "__metadata__", ())
            if callable(check)
        ]
    return tuple(checks)


def _is_union(annotation: object) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


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
