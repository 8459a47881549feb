"""The built-in optimizers: first-order rules and trust regions."""

from __future__ import annotations

__all__: list[str] = []
