"""The NumPy backend: closed-form derivatives all the way, no autodiff."""

from __future__ import annotations

__all__: list[str] = []
