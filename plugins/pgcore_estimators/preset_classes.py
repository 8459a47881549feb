"""The classes of the presets, by the names in their rows."""

from __future__ import annotations

from typing import Any

from pgcore.parts.presets import FromPreset, Preset, preset_class
from pgcore_estimators.presets import PRESETS, Row

__all__ = ["class_of"]


def class_of(row: Row) -> type[FromPreset]:
    """Return the estimator of a row."""
    fields: tuple[Any, ...] = row[1:]
    return preset_class(Preset(*fields), row.class_name, __name__)


def __getattr__(name: str) -> Any:
    """Make the class of a row at its first use; as an attribute of this module, its instances pickle."""
    for row in PRESETS:
        if row.class_name == name:
            globals()[name] = class_of(row)
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
