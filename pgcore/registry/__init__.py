"""The registry: what plugins provide, by kind and name, and whether it can be used here."""

from __future__ import annotations

__all__: list[str] = []
