"""Gradients as tensors on the policy's device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors  # twice as fast as the public ways

from pgcore.autodiff import AutodiffGradient

__all__ = ["TorchGradient", "flat"]


class TorchGradient(AutodiffGradient):
    """See `AutodiffGradient`."""

    def square(self) -> float:
        """See `Gradient.square`."""
        vector = flat(self.leaves)
        return float(torch.dot(vector, vector))


def flat(leaves: dict[str, Tensor]) -> Tensor:
    """Return all entries in one vector."""
    return _flatten_dense_tensors(tuple(leaves.values()))
