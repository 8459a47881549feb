"""Masks: the steps whose gain counts, and the steps that count in the loss at all."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pgcore.data.batch import Batch
from pgcore.parts.part import Part
from pgcore.parts.weights import GainWeight
from pgcore.validation.arrays import Array

__all__ = ["GainMask", "Mask", "StepMask"]


class Mask(Part, ABC):
    """A choice of steps; see `GainMask` and `StepMask`.

    Attributes:
        registered_as, noun: See `Part`.
    """

    registered_as = "masks"
    noun = "mask"


class GainMask(Mask, GainWeight):
    """A weight of 0 or 1 of each step's gain; other terms count everywhere."""

    @property
    def own_denominator(self) -> bool:
        """Whether the gain is reduced over the mask's own steps, as if there were no others."""
        return False


class StepMask(Mask):
    """A choice of the steps that count: others add nothing to any term or to any denominator.

    Whatever stands at a step that is left out, its term and its gradient are exactly 0.
    """

    @property
    def early(self) -> bool:
        """Whether steps are left out before advantages are computed, as if they were no steps.

        Returns, lengths, groups and ratios of episodes are then those of the other steps alone.
        """
        return False

    @abstractmethod
    def keeps(self, batch: Batch) -> Array:
        """Return [B] bool, true for the steps that count.

        Args:
            batch: Without padding and, unless the mask is early itself, without the steps that early
                masks leave out.

        Raises:
            BatchError: the batch lacks what the choice needs.
        """
