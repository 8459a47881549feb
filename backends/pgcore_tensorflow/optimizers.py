"""Optimizer state in flat variables, the whole step one graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import tensorflow as tf

from pgcore.interfaces.formula import BoundOptimizer, OptimizerSpec, check_step
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.parameters import flat as flat_arrays
from pgcore.validation.arrays import Array
from pgcore_tensorflow.gradient import TensorflowGradient
from pgcore_tensorflow.parameters import TensorflowParameters, flat
from pgcore_tensorflow.xp import xp

__all__ = ["TensorflowOptimizer"]


class TensorflowOptimizer(BoundOptimizer):
    """See `BoundOptimizer`."""

    left_out: ClassVar[frozenset[str]] = frozenset({"_update"})

    def __init__(self, spec: OptimizerSpec, policy: TensorflowParameters) -> None:
        """Set the slots to 0."""
        self.spec = spec
        self.policy = policy
        self._slots: dict[str, Any] = {
            slot: np.zeros(policy.size, policy.dtype) for slot in spec.slots
        }
        self.rebuild()

    def __getstate__(self) -> dict[str, Any]:
        """See `Copied`: variables belong to their process."""
        return super().__getstate__() | {
            "_slots": {slot: value.numpy() for slot, value in self._slots.items()}
        }

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        # Slots are NumPy arrays here, of a new optimizer or of a copy.
        spec, policy = self.spec, self.policy
        with policy.placed():
            self._slots = {slot: tf.Variable(value) for slot, value in self._slots.items()}
        shapes = [tf.TensorSpec(value.shape, value.dtype) for value in policy.native.values()]
        # The number of scalars does not depend on the step or on the schedule.
        count = len(spec.scalars(1, 1.0))
        scalars = [tf.TensorSpec([], policy.dtype)] * count
        self._update = tf.function(self._assign, autograph=False).get_concrete_function(
            *shapes, *scalars
        )

    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """See `BoundOptimizer.step`."""
        leaves = cast("TensorflowGradient", gradient).leaves
        with self.policy.placed():
            # TensorFlow keeps every Python number that it makes a tensor of; not those of NumPy.
            with np.errstate(over="ignore"):
                numbers = [tf.constant(np.array(scalar, self.policy.dtype)) for scalar in scalars]
            tensors = [leaves[name] for name in self.policy.names]
            finite = self._update(*tensors, *numbers)
            if self.policy.resident:
                self.policy.unread.add_step(self, self.policy, finite)
            elif not self.policy.number(finite):
                # Computed again, the results tell the parameter.
                _, moved, slots = self._results(*tensors, *numbers)
                check_step(
                    self._named(moved), {slot: self._named(new) for slot, new in slots.items()}
                )

    def slots(self) -> dict[str, dict[str, Array]]:
        """See `BoundOptimizer.slots`."""
        slots: dict[str, dict[str, Array]] = {}
        for slot, vector in self._slots.items():
            slots[slot] = self._named(vector)
        return slots

    def load(self, slots: Mapping[str, Mapping[str, Array]]) -> None:
        """See `BoundOptimizer.load`."""
        for slot, vector in self._slots.items():
            arrays = {
                name: np.asarray(slots[slot][name], self.policy.dtype) for name in self.policy.names
            }
            vector.assign(flat_arrays(arrays))

    def _named(self, vector: Any) -> dict[str, Array]:
        """Return a vector's arrays by canonical name."""
        views = self.policy.layout.named(vector.numpy())
        return {name: view.copy() for name, view in views.items()}

    def _results(self, *tensors: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Return whether a step may be taken, the new parameters and the new slots.

        Args:
            tensors: One gradient a parameter, then the scalars.
        """
        parameters = len(self.policy.native)
        vector, scalars = flat(list(tensors[:parameters])), tensors[parameters:]
        slots = {slot: tf.convert_to_tensor(value) for slot, value in self._slots.items()}
        before = flat(list(self.policy.native.values()))
        moved, changed = self.spec.updated(xp, before, vector, slots, *scalars)
        finite = tf.reduce_all(tf.math.is_finite(tf.stack([moved, *changed.values()])))
        # The gradient of a device is unread.
        if self.policy.resident:
            finite &= tf.math.is_finite(tf.reduce_sum(vector * vector))
        return finite, moved, changed

    def _assign(self, *tensors: Any) -> Any:
        """Apply the formula where the results are finite, and return whether they are."""
        finite, moved, changed = self._results(*tensors)
        parameters: list[Any] = list(self.policy.native.values())
        moved = tf.where(finite, moved, flat(parameters))
        for slot, value in changed.items():
            changed[slot] = tf.where(finite, value, self._slots[slot])
        # All values are computed before any variable changes.
        for parameter, place in zip(parameters, self.policy.layout.places.values(), strict=True):
            parameter.assign(tf.reshape(moved[place], parameter.shape))
        for slot, value in changed.items():
            self._slots[slot].assign(value)
        return finite
