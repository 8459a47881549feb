"""Updates of a policy: minibatches, replay, target policies."""

from __future__ import annotations

__all__: list[str] = []
