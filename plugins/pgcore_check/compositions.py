"""Estimators in which single parts are tried."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from pgcore.errors import PluginError
from pgcore.interfaces.estimator import Estimator
from pgcore.parts import Composed, Part
from pgcore_check.kinds import ADVICE, PART_KINDS, message_of, with_properties

__all__ = ["composing", "compositions"]


def composing(estimators: Iterable[Any]) -> list[type[Any]]:
    """Return the classes of some estimators that have a field for a kind of part, each once."""
    classes = dict.fromkeys(type(item) for item in estimators if isinstance(item, Composed))
    return [cls for cls in classes if not fields_of(cls).isdisjoint(PART_KINDS.values())]


def compositions(
    estimators: Iterable[Any], parts: Mapping[str, Part]
) -> tuple[dict[str, Estimator], dict[str, str]]:
    """Return an estimator with each part, by label, and the reason of each part that has none.

    Args:
        estimators: The first of their classes that takes a part gets it, with default options
            otherwise.
        parts: By label.
    """
    classes = composing(estimators)
    tried: dict[str, Estimator] = {}
    reasons: dict[str, str] = {}
    for label, part in parts.items():
        problems: list[str] = []
        for cls in classes:
            if part.noun not in fields_of(cls):
                continue
            try:
                tried[f"{cls.name}, {label}"] = composition_of(cls, part)
                break
            except Exception as problem:  # noqa: BLE001 - a plugin's code may raise anything
                problems.append(f"{message_of(problem)}; {ADVICE}")
        else:
            reasons[str(part)] = (problems or [f"no estimator has a field {part.noun!r}"])[0]
    return tried, reasons


def composition_of(cls: type[Any], part: Part) -> Estimator:
    """Return an estimator with default options but for one part.

    Raises:
        PluginError: the part has no effect in it.
    """
    composed = cls(**{part.noun: part})
    if part not in [*composed.composition]:
        raise PluginError(f"{part}: expected a part that has an effect, got {part!r}")
    return with_properties("estimators", composed)


def fields_of(cls: type[Any]) -> set[str]:
    """Return the names of a dataclass's fields."""
    return {field.name for field in dataclasses.fields(cls)}
