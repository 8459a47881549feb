"""The array namespace that surrogates and optimizer formulas run on here: the core's own, over NumPy."""

from __future__ import annotations

from pgcore.xp.numpy import host as xp

__all__ = ["xp"]
