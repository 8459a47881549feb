"""The conformance kit for built-in and third-party backends, estimators and heads.

It imports NumPy and the core alone. `reference` holds the reference implementation,
`bounds.running_error` its rounding-error bounds, `cases` the cases and the helpers for kinks.
"""

from __future__ import annotations

__all__: list[str] = []
