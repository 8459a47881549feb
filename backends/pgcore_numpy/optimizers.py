"""Optimizer state in flat vectors, one formula for all parameters at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import numpy as np

from pgcore.interfaces.formula import BoundOptimizer, OptimizerSpec, check_step
from pgcore.interfaces.gradient import Gradient
from pgcore.validation.arrays import Array
from pgcore_numpy.gradient import NumpyGradient
from pgcore_numpy.parameters import NumpyParameters
from pgcore_numpy.xp import xp

__all__ = ["NumpyOptimizer"]


class NumpyOptimizer(BoundOptimizer):
    """See `BoundOptimizer`."""

    def __init__(self, spec: OptimizerSpec, policy: NumpyParameters) -> None:
        """Set the slots to 0."""
        self.spec = spec
        self.policy = policy
        self._slots = {name: np.zeros_like(policy.vector) for name in spec.slots}

    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """See `BoundOptimizer.step`."""
        vector, arrays_of = cast("NumpyGradient", gradient).vector, self.policy.layout.named
        # NumPy's warnings are off: an overflow is reported by its parameter.
        with np.errstate(all="ignore"):
            moved, slots = self.spec.updated(xp, self.policy.vector, vector, self._slots, *scalars)
            # Products tell whether any entry is NaN or infinite; large ones overflow themselves.
            if not all(math.isfinite(np.dot(new, new)) for new in (moved, *slots.values())):
                check_step(arrays_of(moved), {slot: arrays_of(new) for slot, new in slots.items()})
        # In place, since the policy's views share the vector's memory.
        self.policy.vector[...], self._slots = moved, slots

    def slots(self) -> dict[str, dict[str, Array]]:
        """See `BoundOptimizer.slots`."""
        slots: dict[str, dict[str, Array]] = {}
        for slot, vector in self._slots.items():
            views = self.policy.layout.named(vector)
            slots[slot] = {name: view.copy() for name, view in views.items()}
        return slots

    def load(self, slots: Mapping[str, Mapping[str, Array]]) -> None:
        """See `BoundOptimizer.load`."""
        for slot, vector in self._slots.items():
            for name, view in self.policy.layout.named(vector).items():
                view[...] = slots[slot][name]
