"""Checks of arrays, fields and batches, each with an error that states the expectation."""

from __future__ import annotations

__all__: list[str] = []
