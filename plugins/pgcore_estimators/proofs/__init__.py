"""Proofs of the built-in estimators: reference implementations, options, kinks."""

from __future__ import annotations

__all__: list[str] = []
