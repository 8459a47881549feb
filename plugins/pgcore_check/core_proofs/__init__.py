"""Proofs of the core's heads: reference implementations, options to try, and kinks."""

from __future__ import annotations

__all__: list[str] = []
