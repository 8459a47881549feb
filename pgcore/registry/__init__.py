"""The registry: everything that plugins provide, by kind and name, and whether it is usable."""

from __future__ import annotations

__all__: list[str] = []
