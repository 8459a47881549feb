"""Checks of single values, and dataclasses whose fields declare the check that they need.

A check takes the value's place, the value and an error class. It returns the value as a plain
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
import sys
import types
import typing
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Generic, TypeVar, cast

import numpy as np

from pgcore.errors import PgcoreError, SpecError
from pgcore.wording import shown

__all__ = ["Checked", "annotation_of", "check_fields", "set_field"]
# Annotations of fields, and the checks that they stand for.
__all__ += ["Count", "CountFromZero", "Decay", "Flag", "NonNegative", "Number", "Positive"]
__all__ += ["PositiveOrInfinite", "UnitInterval"]
__all__ += ["choice", "count", "count_from_zero", "decay", "ensure_rng", "flag"]
__all__ += ["instance_check", "instance_of", "non_negative"]
__all__ += ["number", "positive", "positive_or_infinite", "unit_interval"]

Check = Callable[[str, object, type[PgcoreError]], Any]
T_co = TypeVar("T_co", covariant=True)


def _real(value: object) -> float:
    """Return a real number as a float: infinity if it is too large for one, NaN for no number."""
    if isinstance(value, bool) or not isinstance(value, (float, Real)):  # a float is found sooner
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _integer(value: object) -> float:
    """Return an integer as an int, NaN for anything else."""
    return int(value) if not isinstance(value, bool) and isinstance(value, Integral) else math.nan


@dataclass(frozen=True)
class Rule(Generic[T_co]):
    """A check: `rule(where, value, error)` returns the plain value, or raises the error.

    Attributes:
        rule: The expectation, after "expected" in the error.
        valid: Whether a plain value passes; NaN, for no number, fails every comparison.
        advice: The next thing to do, for the error.
        plain: From the value to a plain one.
        choices: The values that pass, where there is a list of them.
    """

    rule: str
    valid: Callable[[Any], bool]
    advice: str = "change this value"
    plain: Callable[[object], object] = _real
    choices: tuple[object, ...] = ()

    def __call__(self, where: str, value: object, error: type[PgcoreError] = SpecError) -> T_co:
        """Return the plain value, or raise `error`, whose message begins with `where`."""
        plain = self.plain(value)
        if not self.valid(plain):
            raise error(f"{where}: expected {self.rule}, got {shown(value)}; {self.advice}")
        return cast("T_co", plain)


def _as_it_is(value: object) -> object:
    return value


# Each number check returns an int or a float, whatever type of number it is called with.
count = Rule[int]("an integer of at least 1", lambda n: n >= 1, "give a count", _integer)
count_from_zero = Rule[int]("an integer of at least 0", lambda n: n >= 0, plain=_integer)
number = Rule[float]("a finite number", math.isfinite)
non_negative = Rule[float]("a finite number of at least 0", lambda x: 0 <= x < math.inf)
positive = Rule[float]("a positive number", lambda x: 0 < x < math.inf, "give a finite one above 0")
positive_or_infinite = Rule[float]("a number above 0 or math.inf", lambda x: x > 0, "give one")
unit_interval = Rule[float]("a number in [0, 1]", lambda x: 0 <= x <= 1)
decay = Rule[float]("a number in [0, 1)", lambda x: 0 <= x < 1)
flag = Rule[bool]("True or False", lambda x: isinstance(x, bool), "choose one of them", _as_it_is)


def choice(*choices: object) -> Rule[Any]:
    """Return the check that a value is one of these."""
    rule = f"one of {', '.join(map(repr, choices))}"

    def valid(value: object) -> bool:
        # An array has no single truth value to compare by, and no hash.
        return isinstance(value, Hashable) and value in choices

    return Rule(rule, valid, "choose one of them", _as_it_is, choices)


def instance_check(
    cls: type, example: str, error: type[PgcoreError]
) -> Callable[[str, object], object]:
    """Return the check that an argument is an instance of a class, which takes place and value.

    Args:
        cls: The class.
        example: The way to build one.
        error: Of the refusal.
    """
    rule = instance_of(cls, example)

    # Sooner than `isinstance` for an abstract class, and every gradient asks.
    @functools.lru_cache(64)
    def is_one(kind: type) -> bool:
        return issubclass(kind, cls)

    def check(where: str, value: object) -> object:
        return value if is_one(type(value)) else rule(where, value, error)

    return check


def instance_of(cls: type, example: str) -> Rule[Any]:
    """Return the check that a value is an instance of a class, such as `example`."""
    article = "an" if cls.__name__[0] in "AEIOU" else "a"
    rule = f"{article} {cls.__name__} such as {example}"
    return Rule(rule, lambda value: isinstance(value, cls), "build one", _as_it_is)


ensure_rng = instance_check(np.random.Generator, "pgcore.generator(seed)", SpecError)

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

    A subclass with a rule that joins fields writes `__post_init__` and calls `check_fields` first.

    Attributes:
        field_error: The class of the error for a value that a field cannot take.
        section: The dataclass's name in errors; None is the name of its class.
    """

    __slots__ = ()
    field_error: ClassVar[type[PgcoreError]] = SpecError
    section: ClassVar[str | None] = None

    def __post_init__(self) -> None:
        """Replace each field that declares a check by the value that the check returns.

        Raises:
            PgcoreError: a field has a value that it cannot take; of the class `field_error`.
        """
        section = self.section or type(self).__name__
        for name, check, optional in declared_checks(type(self)):
            value = getattr(self, name)
            if value is None and optional:
                continue
            # A value that is plain already is not set again.
            checked = check(f"{section}.{name}", value, self.field_error)
            if checked is not value:
                set_field(self, name, checked)


check_fields = Checked.__post_init__  # for subclasses, whose slots rule out `super()`


@functools.cache
def declared_checks(cls: type[Any]) -> tuple[tuple[str, Check, bool], ...]:
    """Return field name, check and whether None passes, for each field of a dataclass with a check.

    A field whose annotation cannot be evaluated, as with names imported for the type checker alone,
    has none. A field cannot have the name that its own annotation uses.
    """
    checks: list[tuple[str, Check, bool]] = []
    for field in dataclasses.fields(cls):
        annotation = annotation_of(cls, field)
        # `Positive | None` is a union of an annotated type and None.
        union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
        members = typing.get_args(annotation) if union else (annotation,)
        for member in members:
            metadata = filter(callable, getattr(member, "__metadata__", ()))
            checks += [(field.name, check, type(None) in members) for check in metadata]
    return tuple(checks)


def annotation_of(cls: type, field: dataclasses.Field[Any]) -> object:
    """Return a field's annotation, evaluated in the class that declares it; None if it cannot be."""
    base = next(base for base in cls.__mro__ if field.name in inspect.get_annotations(base))
    scopes = vars(sys.modules[base.__module__]), dict(vars(base))
    try:
        return eval(field.type, *scopes) if isinstance(field.type, str) else field.type  # noqa: S307
    except Exception:  # noqa: BLE001 (an annotation may hold anything)
        return None


def set_field(instance: object, name: str, value: object) -> None:
    """Set a field of a frozen dataclass from its `__post_init__`."""
    object.__setattr__(instance, name, value)
