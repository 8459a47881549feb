"""Surrogates as SymPy expressions: their tracing and derivatives and NumPy code.

`pgcore.derive` is the entry point.
"""

from __future__ import annotations

__all__: list[str] = []
