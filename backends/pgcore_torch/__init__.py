"""The PyTorch backend: torch.nn modules, differentiated by PyTorch."""

from __future__ import annotations

__all__: list[str] = []
