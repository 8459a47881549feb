"""The reference for one policy, estimator and batch, stage by stage."""

from __future__ import annotations

__all__: list[str] = []
