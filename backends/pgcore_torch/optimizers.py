"""Optimizer state in flat tensors, one formula for all parameters at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor

from pgcore.interfaces.formula import BoundOptimizer, OptimizerSpec, check_step
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.parameters import flat as flat_arrays
from pgcore.validation.arrays import Array
from pgcore_torch.gradient import TorchGradient
from pgcore_torch.parameters import TorchParameters, flat
from pgcore_torch.xp import xp

__all__ = ["TorchOptimizer"]


class TorchOptimizer(BoundOptimizer):
    """See `BoundOptimizer`."""

    def __init__(self, spec: OptimizerSpec, policy: TorchParameters) -> None:
        """Set the slots to 0."""
        self.spec = spec
        self.policy = policy
        self._slots = {slot: torch.zeros_like(flat(policy.native)).detach() for slot in spec.slots}

    @torch.no_grad()
    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """See `BoundOptimizer.step`."""
        # A gradient is always this backend's own: `Optimizer.step` has checked it.
        derivative = flat(cast("TorchGradient", gradient).leaves)
        parameters = flat(self.policy.native)
        moved, slots = self.spec.updated(xp, parameters, derivative, self._slots, *scalars)
        # One sum is not finite if any entry is, or if it overflows itself.
        sums = [vector.sum() for vector in (moved, *slots.values())]
        finite = torch.isfinite(torch.stack(sums).sum())
        # The gradient is unread, so the device decides whether it is a step.
        if self.policy.resident:
            finite &= torch.isfinite(torch.dot(derivative, derivative))
            moved = torch.where(finite, moved, parameters)
            for slot, vector in slots.items():
                slots[slot] = torch.where(finite, vector, self._slots[slot])
            self.policy.unread.add_step(self, self.policy, finite)
        elif not finite:
            check_step(self._named(moved), {slot: self._named(new) for slot, new in slots.items()})
        self._slots = slots
        self.policy.assign(self._parts(moved))

    def slots(self) -> dict[str, dict[str, Array]]:
        """See `BoundOptimizer.slots`."""
        slots: dict[str, dict[str, Array]] = {}
        # Weights are [out, in] in the vectors, and [in, out] in canonical shape.
        for slot, vector in self._slots.items():
            slots[slot] = self._named(vector)
        return slots

    def load(self, slots: Mapping[str, Mapping[str, Array]]) -> None:
        """See `BoundOptimizer.load`."""
        for slot in self._slots:
            arrays = {
                name: np.asarray(slots[slot][name], self.policy.dtype) for name in self.policy.names
            }
            self._slots[slot] = flat(self.policy.leaves(flat_arrays(arrays)))

    def _named(self, vector: Tensor) -> dict[str, Array]:
        """Return the vector's arrays by canonical name, in canonical shape."""
        parts = self._parts(vector)
        return {name: self.policy.canonical(name, part) for name, part in parts.items()}

    def _parts(self, vector: Tensor) -> dict[str, Tensor]:
        """Return the vector's views by canonical name, in PyTorch's own shapes."""
        native = self.policy.native
        parts = torch.split(vector, [value.numel() for value in native.values()])
        # `native` and `flat` have the same order of names.
        views: dict[str, Tensor] = {}
        for name, part in zip(native, parts, strict=True):
            views[name] = part.view(native[name].shape)
        return views
