"""Pickling and deep copies of policies, gradients and optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = ["Copied"]


class Copied:
    """An object that pickles and deep-copies to the bit, without its caches.

    `left_out` names caches, views and anything bound to this process, which `rebuild` makes anew.
    Arrays that a framework pickles with another dtype travel as NumPy's: `__getstate__` converts them.
    """

    left_out: ClassVar[frozenset[str]] = frozenset()

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes of a copy, by name."""
        return {name: value for name, value in vars(self).items() if name not in self.left_out}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the attributes over, and make the others anew."""
        vars(self).update(state)
        self.rebuild()

    def rebuild(self) -> None:
        """Make the attributes in `left_out` from the others; nothing by default."""
