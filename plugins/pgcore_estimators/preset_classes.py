"""The classes of the presets, by the names in their rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgcore.parts.presets import FromPreset, Preset, preset_class
from pgcore_estimators.presets import PRESETS, Row

__all__ = ["class_of"]


def class_of(row: Row) -> type[FromPreset]:
    """Return the estimator of a row."""
    fields: tuple[Any, ...] = row[1:]
    return preset_class(Preset(*fields), row.class_name, __name__)


# As attributes of this module, so that instances pickle.
globals().update({row.class_name: class_of(row) for row in PRESETS})

if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Return a row's class, whose fields no type checker sees."""
