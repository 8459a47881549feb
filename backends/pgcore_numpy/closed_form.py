"""The closed form of a network: its value for a block of steps, and its derivatives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import singledispatch

from pgcore.errors import SpecError
from pgcore.validation.arrays import Array

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
        """Return [n, k] and keep what the derivatives need.

        Args:
            parameters: Arrays by name.
            observations: [n, ...] as the batch holds them, of any dtype.
        """

    @abstractmethod
    def backward(self, parameters: Parameters, d: Array, steps: slice) -> dict[str, Array]:
        """Return the derivatives of the loss by the parameters, summed over some of the steps.

        Args:
            parameters: As `forward` had them.
            d: [m, k] the loss's derivative in what `forward` returned for these steps.
            steps: Which of the block's steps those are.
        """

    @abstractmethod
    def tangent(self, parameters: Parameters, direction: Parameters) -> Array:
        """Return [n, k]: how what `forward` returned changes along a direction in parameter space.

        Args:
            parameters: As `forward` had them.
            direction: The direction, an array for each of them.
        """


@singledispatch
def make_network(network: object) -> ClosedForm:
    """Return the closed form of a network that is not built in.

    A network that another distribution provides joins with `@make_network.register` on a function
    that returns its `ClosedForm`.

    Raises:
        SpecError: no closed form is registered for this kind of network.
    """
    raise SpecError(
        f"numpy backend: expected a network with a closed form, got {network}; register one with "
        "pgcore_numpy.networks.make_network, or choose a backend that differentiates by itself"
    )
