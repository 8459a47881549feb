"""Optimizer state in variables, the whole step one graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import tensorflow as tf

from pgcore.arrays import Array
from pgcore.gradient import Gradient
from pgcore.optimizer import BoundOptimizer, OptimizerSpec
from pgcore_tensorflow.gradient import TensorflowGradient
from pgcore_tensorflow.xp import xp

if TYPE_CHECKING:
    from pgcore_tensorflow.policy import TensorflowPolicy

__all__ = ["TensorflowOptimizer"]


class TensorflowOptimizer(BoundOptimizer):
    """See `BoundOptimizer`."""

    def __init__(self, spec: OptimizerSpec, policy: TensorflowPolicy) -> None:
        """Set the slots to 0."""
        self.spec = spec
        self.policy = policy
        with policy.placed():
            self._slots = {
                slot: {name: tf.Variable(tf.zeros_like(value)) for name, value in policy.native.items()}
                for slot in spec.slots
            }
        self._update = tf.function(self._assign, autograph=False)

    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """See `BoundOptimizer.step`."""
        leaves = cast("TensorflowGradient", gradient).leaves
        with self.policy.placed():
            numbers = [tf.constant(scalar, self.policy.dtype) for scalar in scalars]
            self._update([leaves[name] for name in self.policy.names], numbers)

    def slots(self) -> dict[str, dict[str, Array]]:
        """See `BoundOptimizer.slots`."""
        return {
            slot: {name: self.policy.canonical(name, value) for name, value in values.items()}
            for slot, values in self._slots.items()
        }

    def load(self, slots: Mapping[str, Mapping[str, Array]]) -> None:
        """See `BoundOptimizer.load`."""
        for slot, values in self._slots.items():
            for name, value in values.items():
                value.assign(slots[slot][name].astype(self.policy.dtype))

    def _assign(self, leaves: list[Any], scalars: list[Any]) -> None:
        for name, leaf in zip(self.policy.names, leaves, strict=True):
            parameter = self.policy.native[name]
            own = {slot: tf.convert_to_tensor(values[name]) for slot, values in self._slots.items()}
            moved, changed = self.spec.update(xp, tf.convert_to_tensor(parameter), leaf, own, *scalars)
            parameter.assign(moved)
            for slot, value in changed.items():
                self._slots[slot][name].assign(value)
