"""Expected gradients over a behaviour policy's episodes."""

from __future__ import annotations

__all__: list[str] = []
