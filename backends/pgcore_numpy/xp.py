"""The array namespace of surrogates and optimizer formulas: the core's, over NumPy."""

from __future__ import annotations

from pgcore.xp.numpy import host as xp

__all__ = ["xp"]
