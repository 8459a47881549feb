"""Gradients in one flat vector."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore_numpy.parameters import NumpyParameters
from pgcore_numpy.xp import xp

__all__ = ["NumpyGradient"]


class NumpyGradient(Gradient):
    """See `Gradient`.

    Attributes:
        vector: [D] in the policy's layout.
    """

    left_out: ClassVar[frozenset[str]] = frozenset({"layout"})

    def __init__(
        self,
        policy: NumpyParameters,
        vector: Array,
        surrogate: Surrogate,
        blocks: list[dict[str, Array]],
    ) -> None:
        """Keep the vector, and the surrogate's arguments in each block of steps."""
        self.policy = self._owner = policy
        self.vector = vector
        self.surrogate = surrogate
        self._blocks = blocks
        self.rebuild()

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        self.layout = self._owner.layout

    def arguments(self) -> dict[str, Array]:
        """See `Gradient.arguments`."""
        if self.addends:
            return self.joined_arguments()
        first = self._blocks[0]
        if len(self._blocks) == 1:
            return first
        # Joined only here: a training step never asks.
        arguments: dict[str, Array] = {}
        for name in first:
            arguments[name] = np.concatenate([block[name] for block in self._blocks])
        return arguments

    def terms(self) -> Array:
        """See `Gradient.terms`."""
        # Overflow is reported by `check_finite`, not by NumPy's warnings.
        with np.errstate(all="ignore"):
            return self.surrogate.estimator.surrogate(xp, **self.arguments())

    def numpy(self) -> dict[str, Array]:
        """See `Gradient.numpy`."""
        return {name: view.copy() for name, view in self.layout.named(self.vector).items()}

    def times(self, factor: float) -> NumpyGradient:
        """See `Gradient.times`."""
        with np.errstate(over="ignore"):
            return NumpyGradient(self._owner, self.vector * factor, self.surrogate, self._blocks)

    def added(self, other: NumpyGradient) -> NumpyGradient:
        """See `Gradient.added`."""
        with np.errstate(over="ignore", invalid="ignore"):
            vector = self.vector + other.vector
        return NumpyGradient(self._owner, vector, self.surrogate, self._blocks)

    def record(self) -> NumpyGradient:
        """See `Gradient.record`."""
        # A slice would keep the whole vector.
        nothing = np.empty(0, self.vector.dtype)
        return NumpyGradient(self._owner, nothing, self.surrogate, self._blocks)

    def square(self) -> float:
        """See `Gradient.square`."""
        with np.errstate(over="ignore"):
            return float(np.dot(self.vector, self.vector))
