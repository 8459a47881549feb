"""Rollouts and training on Gymnasium environments: the command `pgcore train`."""

from __future__ import annotations

__all__: list[str] = []
