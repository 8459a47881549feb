"""The JAX backend: pure functions, always compiled, differentiated by JAX."""

from __future__ import annotations

__all__: list[str] = []
