"""The reference implementation of heads, networks and estimators, in any number system."""

from __future__ import annotations

__all__: list[str] = []
