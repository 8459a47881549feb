"""Proofs of the built-in estimators: reference implementations, options to try, non-differentiable points."""

from __future__ import annotations

__all__: list[str] = []
