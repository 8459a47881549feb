"""Gradients as tensors on the policy's device."""

from __future__ import annotations

import torch
from torch import Tensor

from pgcore.autodiff.gradient import AutodiffGradient
from pgcore_torch.parameters import flat

__all__ = ["TorchGradient"]


class TorchGradient(AutodiffGradient):
    """See `AutodiffGradient`."""

    def squared(self) -> Tensor:
        """See `AutodiffGradient.squared`: one product over all entries."""
        vector = flat(self.leaves)
        return torch.dot(vector, vector)

    def limited(self, max_norm: float) -> AutodiffGradient:
        """See `AutodiffGradient.limited`."""
        norm = self.squared().sqrt()
        factor = torch.where(norm <= max_norm, 1.0, max_norm / norm)
        return self.replaced({name: leaf * factor for name, leaf in self.leaves.items()})
