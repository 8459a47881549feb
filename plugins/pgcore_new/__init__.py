"""New plugin projects: copies of the example projects under other names."""

from __future__ import annotations

__all__: list[str] = []
