"""The reference's pass through a network without a plain implementation: the network's formula.

The formula defines the network. Its derivatives are computed in forward mode, in any number system,
so that a backend's backward pass, or an author's closed form, can be compared with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.data.spec import PolicySpec
from pgcore.xp.numpy import host
from pgcore_check.bounds.forward_mode import Dual, constant, forward_mode

__all__ = ["FormulaRun"]

Number = Any  # an array of whichever number system `lift` lifts into


class FormulaRun:
    """One pass through the network and the critic, and back.

    See `pgcore_check.reference.reference`.

    Attributes:
        outputs: [B, outputs] of the network.
        values: [B, critic outputs], or None without a critic.
    """

    def __init__(
        self, spec: PolicySpec, parameters: Mapping[str, Number], observations: Number
    ) -> None:
        """Run forward."""
        self.spec, self.parameters, self.observations = spec, parameters, observations
        self.outputs, self.values = spec.apply(host, parameters, observations)
        self.names = [name for name in spec.parameter_shapes if not name.startswith("head.")]

    def backward(
        self, d_outputs: Number, d_column: Number, head: Mapping[str, Number]
    ) -> dict[str, Number]:
        """Return the derivatives of all parameters from those of the outputs and the values.

        Args:
            d_outputs: [B, outputs].
            d_column: [B, critic outputs], or None where the critic takes no part.
            head: The derivatives of the head's own parameters by name.
        """
        shapes = self.spec.parameter_shapes
        sizes = [int(np.prod(shapes[name])) for name in self.names]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        # One direction for each entry of each parameter.
        unit = np.eye(int(starts[-1]), dtype=np.longdouble)
        places = {
            name: slice(starts[i], starts[i] + size)
            for i, (name, size) in enumerate(zip(self.names, sizes, strict=True))
        }
        directions = {
            name: unit[:, place].reshape(-1, *shapes[name]) for name, place in places.items()
        }
        outputs, values = self._moved(directions)
        total = summed(outputs, d_outputs, len(unit))
        if d_column is not None:
            total = total + summed(values, d_column, len(unit))
        # Parameters that take no part, such as the head's in a loss of values, have derivative 0.
        derivatives: dict[str, Number] = {
            name: np.zeros(shape, np.longdouble) for name, shape in shapes.items()
        }
        for name, value in head.items():
            derivatives[f"head.{name}"] = value
        for name, place in places.items():
            derivatives[name] = total[place].reshape(*shapes[name])
        return derivatives

    def tangent(self, direction: Mapping[str, Number]) -> Number:
        """Return [B, outputs]: the outputs' derivative along a direction in parameter space."""
        outputs, _ = self._moved({name: direction[name][None] for name in self.names})
        return outputs.slopes[0]

    def _moved(self, directions: Mapping[str, Number]) -> tuple[Any, Any]:
        """Return outputs and values with their derivatives along [D, ...] directions."""
        parameters = {name: Dual(self.parameters[name], directions[name]) for name in self.names}
        states = self.spec.network.num_states is not None
        observations = self.observations if states else constant(self.observations)
        return self.spec.apply(forward_mode, parameters, observations)


def summed(result: Dual, weights: Number, directions: int) -> Number:
    """Return [D] sums of a result's derivatives, weighed by [B, k]."""
    products = (result.slopes * weights).reshape(result.slopes.shape[0], -1).sum(axis=1)
    # A result that no parameter reaches has one row of slopes, repeated for all directions.
    return products if products.shape[0] == directions else products[np.zeros(directions, np.intp)]
