"""The array namespace that formulas are written against, and NumPy's implementation of it."""

from __future__ import annotations

__all__: list[str] = []
