"""A run's folder: checkpoints, metrics, progress, picture."""

from __future__ import annotations

__all__: list[str] = []
