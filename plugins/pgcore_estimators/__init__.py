"""The built-in estimators."""

from __future__ import annotations

__all__: list[str] = []
