"""A framework's own parameters, and their conversion to NumPy and back."""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import Any

from pgcore.autodiff.unread import Unread
from pgcore.interfaces.parameters import Parameters
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import Native

__all__ = ["AutodiffParameters"]


class AutodiffParameters(Parameters):
    """See `Parameters`; a backend writes the abstract methods."""

    resident: bool  # see `Policy`
    native: dict[str, Any]  # the parameters by canonical name

    @cached_property
    def unread(self) -> Unread:
        """The gradients whose finiteness has not been read."""
        return Unread()

    def parameters(self) -> dict[str, Array]:
        """See `Parameters.parameters`.

        Raises:
            NonFiniteError: see `check_unread`.
        """
        self.check_unread()
        return {name: self.canonical(name, self.native[name]) for name in self.names}

    def __getstate__(self) -> dict[str, Any]:
        """See `Copied`."""
        # A copy leaves the unread gradients behind, and may be all that is kept.
        self.check_unread()
        return super().__getstate__()

    def check_unread(self) -> None:
        """See `Parameters.check_unread` and `Unread`."""
        if self.resident:
            self.unread.check(self)

    @abstractmethod
    def leaves(self, vector: Array) -> dict[str, Native]:
        """Return a [D] vector in canonical order as native arrays by name, in the framework's shapes."""

    @abstractmethod
    def canonical(self, name: str, leaf: Native) -> Array:
        """Return a parameter or its derivative as a NumPy array in canonical shape, for the caller."""

    @abstractmethod
    def to_numpy(self, native: Native) -> Array:
        """Return a native array as NumPy's, for reading alone."""

    def to_native(self, array: Array) -> Native:
        """Return a NumPy array as a native one on the policy's device; a native one as it is.

        A backend with policies on another device than the host writes it.
        """
        raise NotImplementedError

    def number(self, native: Native) -> float:
        """Return a native number as Python's; it waits for the device."""
        return float(native)
