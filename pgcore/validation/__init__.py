"""Checks of arrays, fields and batches, each with an error that says what was expected."""

from __future__ import annotations

__all__: list[str] = []
