"""Optimizer state in flat vectors, one formula for all parameters at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np

from hips.gradient import HipsGradient
from hips.parameters import HipsParameters
from hips.xp import xp
from pgcore.interfaces.formula import BoundOptimizer, OptimizerSpec, check_step
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.parameters import flat
from pgcore.validation.arrays import Array

__all__ = ["HipsOptimizer"]


class HipsOptimizer(BoundOptimizer):
    """See `BoundOptimizer`."""

    def __init__(self, spec: OptimizerSpec, policy: HipsParameters) -> None:
        """Set the slots to 0."""
        self.spec = spec
        self.policy = policy
        self._slots = {name: np.zeros_like(policy.vector) for name in spec.slots}

    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """See `BoundOptimizer.step`."""
        derivative = flat(cast("HipsGradient", gradient).leaves)
        # NumPy's warnings are off: an overflow is reported by its parameter.
        with np.errstate(all="ignore"):
            moved, slots = self.spec.updated(
                xp, self.policy.vector, derivative, self._slots, *scalars
            )
        arrays_of = self.policy.layout.named
        check_step(arrays_of(moved), {slot: arrays_of(vector) for slot, vector in slots.items()})
        self.policy.vector, self._slots = moved, slots

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
