"""Losses of a critic."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from pgcore.parts.part import Part
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["CriticLoss"]


class CriticLoss(Part, ABC):
    """A loss of V(s_t) against its target R; the composition multiplies it by c_v.

    Attributes:
        registered_as, noun: See `Part`.
        reads_old_value: Whether it reads the batch's recorded values.
    """

    registered_as = "critics"
    noun = "critic"
    formula = "term"

    @property
    def reads_old_value(self) -> bool:
        """See the class."""
        return False

    @abstractmethod
    def term(self, xp: ArrayNamespace, value: Native, return_: Native, old_value: Native) -> Native:
        """Return [B] losses, squared reward units or as its docstring says.

        Args:
            xp: The backend's array functions.
            value: [B] V(s_t), reward units.
            return_: [B] its target R.
            old_value: [B] recorded V(s_t); None where it reads none.
        """

    def slope(self, value: Array, return_: Array, old_value: Any) -> Array | None:
        """Return [B] derivatives of `term` by the value; None, the default, has them derived.

        Args:
            value: See `term`; NumPy arrays of any float dtype, as the result.
            return_: See `term`.
            old_value: See `term`.
        """
        return None
