"""Proofs of the core's heads: reference implementations, options to try, non-differentiable points."""

from __future__ import annotations

__all__: list[str] = []
