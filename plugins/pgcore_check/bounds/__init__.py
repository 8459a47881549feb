"""Rounding-error bounds: how far from the exact result a correct one may be."""

from __future__ import annotations

__all__: list[str] = []
