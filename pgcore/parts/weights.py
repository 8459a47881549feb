"""Constant weights of the gain: the base of corrections and of masks of the gain."""

from __future__ import annotations

from abc import ABC, abstractmethod

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.parts.part import Part
from pgcore.validation.arrays import Array

__all__ = ["GainWeight"]


class GainWeight(Part, ABC):
    """A weight of each step's gain that is held constant.

    It is computed with the signals, from the whole batch and the policy of that moment.
    """

    @abstractmethod
    def weights(self, batch: Batch, evaluate: Evaluate, advantage: Array) -> Array:
        """Return [B] float weights, at least 0; a gain of weight 0 is left out, whatever it holds.

        Args:
            batch: The episodes, without steps that masks of whole steps leave out.
            evaluate: See `Estimator.signals`.
            advantage: [B] A as the gain gets it, but for a normalisation of minibatches.
        """
