"""The closed form of a network: its value for a block of steps, and its derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from pgcore.validation.arrays import Array
from pgcore_numpy.dispatch import ClosedForms

__all__ = ["ClosedForm", "make_network"]

Parameters = Mapping[str, Array]


class ClosedForm(ABC):
    """One network's arithmetic on one block of `n` steps; `forward` first, then any of the others.

    Of a `TorsoNetwork` it is the torso's, `k` the width of the last hidden layer: the output layer
    and a critic on the torso are the backend's. Of any other network it is the whole, `k` the
    number of outputs. Parameters go by the names that the network declares.
    """

    @abstractmethod
    def forward(self, parameters: Parameters, observations: Array) -> Array:
        """Return [n, k] and keep the intermediate results that the derivatives need.

        Args:
            parameters: Arrays by name.
            observations: [n, ...] as the batch holds them, of any dtype.
        """

    @abstractmethod
    def backward(self, parameters: Parameters, d: Array, steps: slice) -> dict[str, Array]:
        """Return the derivatives of the loss by the parameters, summed over some of the steps.

        Args:
            parameters: As `forward` had them.
            d: [m, k] the loss's derivative in the result of `forward` at these steps.
            steps: Which of the block's steps those are.
        """

    @abstractmethod
    def tangent(self, parameters: Parameters, direction: Parameters) -> Array:
        """Return [n, k], the derivative of `forward`'s result along a direction.

        Args:
            parameters: As `forward` had them.
            direction: The direction in parameter space, an array for each of them.
        """


# From a network without buffers in `networks` to its closed form. One of another distribution joins
# with `make_network.register(TheirNetwork, TheirForm)`.
make_network: ClosedForms[ClosedForm] = ClosedForms(
    "network",
    ("forward", "torso"),
    "pgcore_numpy.networks.make_network",
    modules=("pgcore_numpy.convolution",),
)
