"""The interface of a head's closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping

from pgcore.validation.arrays import Array

__all__ = ["Kernel", "Weights"]

Weights = Mapping[str, Array]


class Kernel(ABC):
    """One head's arithmetic on one block of steps.

    It computes quantities and carries their derivatives back to the network's outputs. `forward`
    comes first, then any of the others.
    """

    @abstractmethod
    def forward(self, outputs: Array, parameters: Mapping[str, Array], mask: Array | None) -> None:
        """Compute the distribution at each step.

        Args:
            outputs: [outputs, n] the network's, which may be overwritten.
            parameters: The head's own parameters by name.
            mask: [n, A] bool, or None.
        """

    @abstractmethod
    def quantities(
        self, names: Collection[str], actions: Array, reference: Array | None
    ) -> dict[str, Array]:
        """Return some of the head's quantities by name, as fresh arrays.

        Outputs that are action values are quantities too.

        Args:
            names: The quantities; names of a critic's are ignored.
            actions: [n, ...] as the batch holds them.
            reference: [n, width] the reference's distribution parameters, or None.
        """

    @abstractmethod
    def backward(self, cotangents: Weights) -> Array:
        """Return [outputs, n] derivatives of the loss.

        Args:
            cotangents: d loss / d quantity by name, the reduction's weights included. [n] each,
                [n, A] for log_probs and action_values.
        """

    @abstractmethod
    def fisher(self, tangent: Array, weights: Array, direction: Mapping[str, Array]) -> Array:
        """Return [outputs, n] w_t F_t v_t, with F_t the Fisher information in the outputs at step t.

        Args:
            tangent: [outputs, n] v, the outputs' derivative along a direction in parameter space.
            weights: [n] w.
            direction: The direction in the head's own parameters, by name.
        """

    @abstractmethod
    def collect(self, gradient: Mapping[str, Array], steps: slice) -> None:
        """Write the derivatives of the head's own parameters, summed over some steps.

        Args:
            gradient: Arrays to write to, by name.
            steps: The block's steps whose results of `backward` or `fisher` are added.
        """
