"""Every registered penalty under each combination of its options."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from pgcore.errors import PgcoreError
from pgcore.parts import Penalty
from pgcore.registry.registry import load_class, registry
from pgcore.validation.fields import annotation_of

__all__ = ["penalty_forms"]


def penalty_forms() -> Iterator[tuple[str, Penalty | str]]:
    """Yield every registered penalty under each combination of its fields that are choices.

    Yields:
        A label of name and options, and the penalty, or the reason for its absence.
    """
    for name in registry().names("penalties"):
        try:
            cls: Any = load_class("penalties", name, Penalty)
            built = [*forms_of(cls)]
        except Exception as problem:  # noqa: BLE001 - a plugin's code may raise anything
            yield name, " ".join(str(problem).split())
            continue
        for options, penalty in built:
            label = ", ".join([name, *(f"{key}={value}" for key, value in options.items())])
            yield label, penalty


def forms_of(cls: Any) -> Iterator[tuple[dict[str, object], Penalty]]:
    """Yield the options and the penalty of each combination that can be built."""
    listed: dict[str, tuple[object, ...]] = {}
    for field in dataclasses.fields(cls):
        for check in getattr(annotation_of(cls, field), "__metadata__", ()):
            if getattr(check, "choices", ()):
                # The default comes first, and labels leave it out.
                rest = [value for value in check.choices if value != field.default]
                listed[field.name] = (field.default, *rest)
    for values in itertools.product(*listed.values()):
        options = dict(zip(listed, values, strict=True))
        changed = {name: value for name, value in options.items() if value != listed[name][0]}
        try:
            yield changed, cls(**changed)
        except PgcoreError:
            # Two options that exclude each other.
            continue
