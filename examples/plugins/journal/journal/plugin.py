"""Registers the logger; `pgcore list` imports this module, so the hooks import what is heavy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from journal.logger import closing, line, opening
from pgcore.hooks import hookimpl

__all__ = ["pgcore_after_training", "pgcore_after_update", "pgcore_before_training"]


@hookimpl
def pgcore_before_training(folder: Path | None, settings: Mapping[str, Any]) -> None:
    """Begin a table; a resumed run adds another."""
    add(folder, opening(settings))


@hookimpl
def pgcore_after_update(folder: Path | None, metrics: Mapping[str, float]) -> None:
    """Add a row to the table."""
    add(folder, line(metrics))


@hookimpl
def pgcore_after_training(
    folder: Path | None, summary: Mapping[str, Any], error: BaseException | None
) -> None:
    """Add the end of the run."""
    add(folder, closing(summary, error))


def add(folder: Path | None, text: str) -> None:
    """Append text to the run's file; a run without a folder has none."""
    if folder is not None:
        with (folder / "journal.md").open("a", encoding="utf-8") as file:
            file.write(text)
