"""Optimizer state in JAX arrays, the whole step compiled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import jax
import numpy as np

from pgcore.arrays import Array
from pgcore.gradient import Gradient
from pgcore.optimizer import BoundOptimizer, OptimizerSpec
from pgcore_jax.compiled import update
from pgcore_jax.gradient import JaxGradient

if TYPE_CHECKING:
    from pgcore_jax.policy import JaxPolicy

__all__ = ["JaxOptimizer"]


class JaxOptimizer(BoundOptimizer):
    """See `BoundOptimizer`."""

    def __init__(self, spec: OptimizerSpec, policy: JaxPolicy) -> None:
        """Set the slots to 0."""
        self.spec = spec
        self.policy = policy
        zeros = {name: np.zeros(value.shape, policy.dtype) for name, value in policy.native.items()}
        self._slots = {slot: self._native(zeros) for slot in spec.slots}

    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """See `BoundOptimizer.step`."""
        leaves = cast("JaxGradient", gradient).leaves
        numbers = tuple(np.asarray(scalar, self.policy.dtype) for scalar in scalars)
        with self.policy.precision():
            self.policy.native, self._slots = update(self.spec)(self.policy.native, leaves, self._slots, numbers)

    def slots(self) -> dict[str, dict[str, Array]]:
        """See `BoundOptimizer.slots`."""
        return {
            slot: {name: self.policy.canonical(name, values[name]) for name in self.policy.names}
            for slot, values in self._slots.items()
        }

    def load(self, slots: Mapping[str, Mapping[str, Array]]) -> None:
        """See `BoundOptimizer.load`."""
        self._slots = {slot: self._native(slots[slot]) for slot in self._slots}

    def _native(self, values: Mapping[str, Array]) -> dict[str, jax.Array]:
        return {name: self.policy.native_array(values[name]) for name in self.policy.native}
