"""What a head's closed form is: quantities of a block of steps, and their derivatives carried back to the network's outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

from pgcore.validation.arrays import Array

__all__ = ["Kernel", "Weights"]

Weights = Mapping[str, Array]


class Kernel(ABC):
    """One head's arithmetic on one block of steps; `forward` first, then any of the others."""

    @abstractmethod
    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """Take [outputs, n] network outputs, which it may overwrite, and an [n, A] bool mask or None."""

    @abstractmethod
    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
        """Return the head's quantities that are named, and the outputs where they are action values, as fresh arrays."""

    @abstractmethod
    def backward(self, cotangents: Weights) -> Array:
        """Return [outputs, n] derivatives of the loss.

        Args:
            cotangents: d loss / d quantity, [n] by name, [n, A] for log_probs and action_values; the reduction's weights are in.
        """

    @abstractmethod
    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """Return [outputs, n] w_t F_t v_t, where F_t is the Fisher information of the network's outputs at step t.

        Args:
            tangent: [outputs, n] v, the outputs' derivative along a direction in parameter space.
            weights: [n] w.
            direction: The direction in the head's own parameters, by name.
        """

    @abstractmethod
    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """Write the sums over some steps of what `backward` or `fisher` found for the head's own parameters, by name."""
