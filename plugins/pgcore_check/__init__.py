"""The conformance kit: what built-in and third-party backends, estimators and heads are held to.

It imports NumPy and the core alone. `reference` states the closed forms once more, plainly; `running_error` says how far from
it an honest result may be; `cases` and `kinks` are what both are tried on.
"""

from __future__ import annotations

__all__: list[str] = []
