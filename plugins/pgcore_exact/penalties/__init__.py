"""Penalties alone: their expected derivatives beside the gradients of KL divergences."""

from __future__ import annotations

__all__: list[str] = []
