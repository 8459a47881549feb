"""What a network's arithmetic on a block of steps is: forward, backward and along a direction.

Everything is feature-major: a buffer is [features, steps], so that elementwise work runs over contiguous memory and the
head's sums over actions are sums of whole rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from pgcore.validation.arrays import Array
from pgcore_numpy.parameters import Views

__all__ = ["Network"]


class Network(ABC):
    """A network with its buffers for `n` steps, with or without the critic.

    Attributes:
        outputs: [outputs, n] what `forward` computed for the head.
        values: [critic outputs, n] the critic's values, where there are any.
    """

    outputs: Array
    values: Array

    @abstractmethod
    def forward(self, parameters: Views, observations: Array) -> None:
        """Fill `outputs` and `values` from [n, ...] observations."""

    @abstractmethod
    def backward(self, parameters: Views, d_outputs: Array, d_values: Array) -> None:
        """Carry [outputs, n] and [critic outputs, n] derivatives of the loss back to every layer; call after `forward`.

        Without the critic `d_values` is not read.
        """

    @abstractmethod
    def collect(self, gradient: Views, steps: slice) -> None:
        """Write the parameters' derivatives, summed over the block or some of its steps; call after `backward`."""

    @abstractmethod
    def tangent(self, parameters: Views, direction: Views) -> Array:
        """Return [outputs, n]: the outputs' derivative along a direction in parameter space; call after `forward`."""
