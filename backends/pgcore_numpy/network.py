"""The interface of a network's arithmetic on a block of steps.

Arrays are feature-major, [features, steps]: elementwise work runs over contiguous memory, and the
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
        outputs: [outputs, n] the head's inputs, by `forward`.
        values: [critic outputs, n] the critic's values; no row without a critic.
    """

    outputs: Array
    values: Array

    @abstractmethod
    def forward(self, parameters: Views, observations: Array) -> None:
        """Fill `outputs` and `values` from [n, ...] observations."""

    @abstractmethod
    def backward(self, parameters: Views, d_outputs: Array, d_values: Array) -> None:
        """Carry derivatives of the loss back to every layer; call after `forward`.

        Args:
            parameters: As `forward` had them.
            d_outputs: [outputs, n] derivatives in the outputs.
            d_values: [critic outputs, n] derivatives in the values; not read without the critic.
        """

    @abstractmethod
    def collect(self, gradient: Views, steps: slice) -> None:
        """Write the parameters' derivatives, summed over some of the block's steps.

        Call after `backward`.
        """

    @abstractmethod
    def tangent(self, parameters: Views, direction: Views) -> Array:
        """Return [outputs, n], the outputs' derivative along a direction in parameter space.

        Call after `forward`.
        """
