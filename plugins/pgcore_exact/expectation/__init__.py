"""Expectations and variances of gradients, summed over every batch of episodes."""

from __future__ import annotations

__all__: list[str] = []
