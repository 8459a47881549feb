"""Optimizer state in JAX arrays, the whole step compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import jax
import numpy as np

from pgcore.interfaces.formula import BoundOptimizer, OptimizerSpec, check_step
from pgcore.interfaces.gradient import Gradient
from pgcore.validation.arrays import Array
from pgcore_jax.compiled import update
from pgcore_jax.gradient import JaxGradient
from pgcore_jax.parameters import JaxParameters

__all__ = ["JaxOptimizer"]


class JaxOptimizer(BoundOptimizer):
    """See `BoundOptimizer`."""

    def __init__(self, spec: OptimizerSpec, policy: JaxParameters) -> None:
        """Set the slots to 0."""
        # Slots are flat, in the order of the sorted names.
        self.spec = spec
        self.policy = policy
        # Gradients come clipped, so that one compiled formula serves every norm.
        self._formula = dataclasses.replace(spec, max_grad_norm=None)
        self._slots = {slot: policy.native_array(np.zeros(policy.size)) for slot in spec.slots}

    def __getstate__(self) -> dict[str, Any]:
        """See `Copied`: JAX reads its own arrays back as float32 by default."""
        return super().__getstate__() | {
            "_slots": {slot: np.asarray(value) for slot, value in self._slots.items()}
        }

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        self._slots = {slot: self.policy.native_array(value) for slot, value in self._slots.items()}

    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """See `BoundOptimizer.step`."""
        vector = cast("JaxGradient", gradient).vector
        policy = self.policy
        # Arrays, since a Python float would compile anew for each value.
        with np.errstate(over="ignore"):
            numbers = tuple(np.asarray(scalar, policy.dtype) for scalar in scalars)
        with policy.precision():
            moved, slots, finite = update(self._formula, guarded=policy.resident)(
                policy.native, vector, self._slots, numbers
            )
        if policy.resident:
            policy.unread.add_step(self, policy, finite)
        elif not policy.number(finite):
            parameters = {name: np.asarray(moved[name]) for name in policy.names}
            check_step(parameters, {slot: self._named(new) for slot, new in slots.items()})
        policy.native, self._slots = moved, slots

    def slots(self) -> dict[str, dict[str, Array]]:
        """See `BoundOptimizer.slots`."""
        slots: dict[str, dict[str, Array]] = {}
        # JAX returns dicts in the order of the sorted names.
        for slot in self.spec.slots:
            slots[slot] = self._named(self._slots[slot])
        return slots

    def load(self, slots: Mapping[str, Mapping[str, Array]]) -> None:
        """See `BoundOptimizer.load`."""
        for slot in self._slots:
            native = {
                name: self.policy.native_array(slots[slot][name]) for name in self.policy.names
            }
            self._slots[slot] = self.policy.joined(native)

    def _named(self, vector: jax.Array) -> dict[str, Array]:
        """Return a slot's arrays by canonical name, in canonical order."""
        parts = self.policy.parts(vector)
        return {name: self.policy.canonical(name, parts[name]) for name in self.policy.names}
