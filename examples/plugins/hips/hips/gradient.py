"""Gradients as NumPy arrays."""

from __future__ import annotations

from typing import cast

import numpy as np

from pgcore.autodiff.gradient import AutodiffGradient
from pgcore.interfaces.parameters import flat

__all__ = ["HipsGradient", "silent"]

# NumPy warns of an overflow, which pgcore finds in the result and names.
silent = np.errstate(all="ignore")


class HipsGradient(AutodiffGradient):
    """See `AutodiffGradient`."""

    @silent
    def square(self) -> float:
        """See `Gradient.square`."""
        vector = flat(self.leaves)
        return float(np.dot(vector, vector))

    @silent
    def times(self, factor: float) -> HipsGradient:
        """See `Gradient.times`."""
        return cast("HipsGradient", super().times(factor))
