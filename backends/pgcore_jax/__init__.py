"""The JAX backend: pure functions, compiled and differentiated by JAX."""

from __future__ import annotations

__all__: list[str] = []
