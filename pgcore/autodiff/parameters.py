"""Parameters of a framework that differentiates: its own arrays, and their way to NumPy and back."""

from __future__ import annotations

from abc import abstractmethod

from pgcore.interfaces.parameters import Parameters
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import Native

__all__ = ["AutodiffParameters"]


class AutodiffParameters(Parameters):
    """See `Parameters`; a backend writes the methods that are abstract here."""

    @abstractmethod
    def leaves(self, vector: Array) -> dict[str, Native]:
        """Return native arrays by canonical name, in the framework's own shapes, from a [D] vector in canonical order."""

    @abstractmethod
    def canonical(self, name: str, leaf: Native) -> Array:
        """Return a parameter, or its derivative, as a NumPy array in canonical shape that the caller owns."""

    @abstractmethod
    def to_numpy(self, native: Native) -> Array:
        """Return a native array as NumPy's, which nobody writes to."""
