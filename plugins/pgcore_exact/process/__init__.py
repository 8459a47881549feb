"""Finite processes, their episodes and their exact values."""

from __future__ import annotations

__all__: list[str] = []
