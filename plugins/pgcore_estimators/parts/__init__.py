"""The built-in parts of estimators; `pgcore.parts` has their interfaces."""

from __future__ import annotations

__all__: list[str] = []
