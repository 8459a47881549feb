"""Gradients as tensors on the policy's device."""

from __future__ import annotations

import torch
from torch import Tensor

from pgcore.autodiff.gradient import AutodiffGradient
from pgcore_torch.parameters import flat

__all__ = ["TorchGradient"]


class TorchGradient(AutodiffGradient):
    """See `AutodiffGradient`."""

    def square(self) -> float:
        """See `Gradient.square`; one number is read from the device."""
        self._owner.check_unread()
        return self._owner.number(self.squared())

    def squared(self) -> Tensor:
        """See `AutodiffGradient.squared`: one product over all entries."""
        vector = flat(self.leaves)
        return torch.dot(vector, vector)

    def limited(self, max_norm: float) -> AutodiffGradient:
        """See `AutodiffGradient.limited`."""
        norm = self.squared().sqrt()
        factor = torch.where(norm <= max_norm, 1.0, max_norm / norm)
        # Of an infinite norm it would be 0, and so a step.
        factor = torch.where(torch.isfinite(norm), factor, torch.nan)
        return self.replaced({name: leaf * factor for name, leaf in self.leaves.items()})
