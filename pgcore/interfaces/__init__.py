"""The interfaces: estimator, policy, optimizer, backend, and the data that passes between them."""

from __future__ import annotations

__all__: list[str] = []
