"""Masks: the steps whose gain counts."""

from __future__ import annotations

from pgcore.parts.weights import GainWeight

__all__ = ["Mask"]


class Mask(GainWeight):
    """A weight of 0 or 1 of each step's gain; see `GainWeight.weights`.

    Attributes:
        kind, noun: See `Part`.
    """

    kind = "masks"
    noun = "mask"
