"""Surrogates as SymPy expressions: traced, differentiated, compiled to NumPy and written out.

`pgcore.derive` is the entry point.
"""

from __future__ import annotations

__all__: list[str] = []
