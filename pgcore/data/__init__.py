"""Batches of episodes, specs of policies, and the files that both are saved in."""

from __future__ import annotations

__all__: list[str] = []
