"""Corrections: weights for a rollout policy that is not the old policy."""

from __future__ import annotations

from pgcore.parts.weights import GainWeight

__all__ = ["Correction"]


class Correction(GainWeight):
    """A constant importance weight of each step's gain; see `GainWeight.weights`.

    Attributes:
        registered_as, noun: See `Part`.
    """

    registered_as = "corrections"
    noun = "correction"
