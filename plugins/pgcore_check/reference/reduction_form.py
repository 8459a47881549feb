"""The base of reductions' reference implementations, and the weights of anybody's reduction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from pgcore.data.batch import Batch
from pgcore.interfaces.reduction import Reduction, checked_weights
from pgcore_check.proofs import reference_of

__all__ = ["ReductionForm", "weights_of"]

Number = Any  # an array of whichever number system `lift` lifts into
Lift = Any  # from NumPy arrays to that number system


class ReductionForm(ABC):
    """One reduction's definition.

    Attributes:
        fields: The reduction, for its options alone.
    """

    def __init__(self, reduction: Any) -> None:
        """Keep the reduction."""
        self.fields = reduction

    @abstractmethod
    def weights(self, batch: Batch, lift: Lift) -> Number:
        """Return [B] weights of the steps' terms in the loss, before the cast; 0 for padding.

        Args:
            batch: A whole batch.
            lift: From NumPy arrays to the number system to compute in.
        """


def weights_of(reduction: Reduction, batch: Batch, lift: Lift) -> Number:
    """Return a reduction's [B] weights by its reference implementation.

    Without one they are the reduction's own, taken as exact once they are finite, at least 0, and 0
    at padding.

    Args:
        reduction: Anybody's.
        batch: See `ReductionForm.weights`.
        lift: See `ReductionForm.weights`.

    Raises:
        EstimatorError: see `pgcore.interfaces.reduction.checked_weights`.
    """
    form = reference_of(type(reduction))
    if form is None:
        return lift(checked_weights(reduction, batch))
    return form(reduction).weights(batch, lift)
