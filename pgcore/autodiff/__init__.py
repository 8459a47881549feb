"""The kit for backends whose framework differentiates: a backend writes the methods that touch it."""

from __future__ import annotations

__all__: list[str] = []
