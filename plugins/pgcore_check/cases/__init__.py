"""Cases to try backends on: random, extreme, and at non-differentiable points."""

from __future__ import annotations

__all__: list[str] = []
