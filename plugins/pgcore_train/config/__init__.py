"""A run's settings, from a file, the command line and defaults."""

from __future__ import annotations

__all__: list[str] = []
