"""Gradients as tensors on the policy's device."""

from __future__ import annotations

import torch

from pgcore.autodiff.gradient import AutodiffGradient
from pgcore_torch.parameters import flat

__all__ = ["TorchGradient"]


class TorchGradient(AutodiffGradient):
    """See `AutodiffGradient`."""

    def square(self) -> float:
        """See `Gradient.square`."""
        # One product over all entries, with one transfer from the device.
        vector = flat(self.leaves)
        return float(torch.dot(vector, vector))
