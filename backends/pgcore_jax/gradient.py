"""Gradients as JAX arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from pgcore.autodiff import AutodiffGradient
from pgcore_jax.compiled import sum_of_squares

if TYPE_CHECKING:
    from pgcore_jax.policy import JaxPolicy

__all__ = ["JaxGradient"]


class JaxGradient(AutodiffGradient):
    """See `AutodiffGradient`."""

    def square(self) -> float:
        """See `Gradient.square`."""
        with cast("JaxPolicy", self.policy).precision():
            return float(sum_of_squares(self.leaves))

    def scaled(self, factor: float) -> Any:
        """See `Gradient.scaled`."""
        with cast("JaxPolicy", self.policy).precision():
            return super().scaled(factor)
