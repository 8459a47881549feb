"""Steps that cannot be taken: the guard of training, its files, and the command `pgcore gradient`."""

from __future__ import annotations

__all__: list[str] = []
