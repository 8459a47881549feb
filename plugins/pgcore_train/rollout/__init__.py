"""Environments and the episodes that a policy collects in them."""

from __future__ import annotations

__all__: list[str] = []
