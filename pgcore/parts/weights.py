"""Constant weights of the gain: the base of corrections and masks."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.parts.part import Part
from pgcore.validation.arrays import Array

__all__ = ["GainWeight"]


class GainWeight(Part, ABC):
    """A weight of each step's gain that is held constant."""

    @abstractmethod
    def weights(self, batch: Batch, evaluate: Evaluate) -> Array:
        """Return [B] float weights, at least 0; a gain of weight 0 is left out, whatever it holds.

        Args:
            batch: The episodes.
            evaluate: See `Estimator.signals`.
        """
