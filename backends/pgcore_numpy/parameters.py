"""Parameters in one contiguous vector, packed for the arithmetic.

A dense layer's weight and bias are one matrix with the bias as its last row. Policy and critic of
the same shape stand side by side, so that one matrix product serves both. With a shared torso the
value is one more column of the output matrix.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data.networks import MLP, Linear, Table
from pgcore.data.spec import PolicySpec, under
from pgcore.data.spec_checks import check_parameters
from pgcore.interfaces.parameters import Layout, Parameters, flat
from pgcore.validation.arrays import Array

__all__ = ["NumpyParameters", "PackedLayout", "Views"]

# The networks whose parameters are laid out for fused products; all others' lie in canonical order.
LAID_OUT = (Table, Linear, MLP)

# The views of a network that has no such layout.
NOTHING = np.empty((0, 0))


class Views(NamedTuple):
    """Views into one vector, of `N` networks side by side: the policy's and those of its critics.

    Attributes:
        hidden: One [N, inputs + 1, width] matrix a hidden layer, the bias in the last row.
        output: [inputs + 1, outputs] of the policy, or the [states, outputs] table.
        values: [inputs + 1, its outputs] of each critic, or its [states, its outputs] table.
        combined: [inputs + 1, outputs + critic outputs], `output` and the critic's in one, with a
            shared torso; else `output`.
        head: The head's own parameters by name.
        by_name: Every parameter by canonical name for a network with a registered closed form, whose
            arrays above are empty; else empty.
    """

    hidden: list[Array]
    output: Array
    values: list[Array]
    combined: Array
    head: dict[str, Array]
    by_name: dict[str, Array]


class PackedLayout(Layout):
    """The places of a spec's parameters in a packed vector, beside those in canonical order.

    Attributes:
        order: [D] integer. Position in the vector of each parameter, in canonical order:
            `vector[order]` is canonical.
    """

    def __init__(self, spec: PolicySpec) -> None:
        """Lay the parameters out."""
        super().__init__(spec.parameter_shapes)
        self.spec = spec
        self.order = flat(self.named(np.arange(self.size)))

    def views(self, vector: Array) -> Views:
        """Return the views of a [D] vector that the arithmetic uses."""
        spec, network, outputs = self.spec, self.spec.network, self.spec.head.outputs
        take = _Cursor(vector)
        width = spec.critic_outputs // max(len(spec.critics), 1)
        # A subclass may declare other parameters, so the type must be the very one.
        if type(network) not in LAID_OUT:
            arrays = {name: take(*shape) for name, shape in self.shapes.items()}
            return Views([], NOTHING, [], NOTHING, under("head", arrays), arrays)
        if isinstance(network, Table):
            output = take(network.states, outputs)
            values = [take(network.states, width) for _ in spec.critics]
            return Views([], output, values, output, self._head(take), {})
        assert isinstance(network, Linear | MLP)
        widths, shared = (network.inputs, *network.hidden), spec.critic == "shared"
        networks = 1 if shared else 1 + len(spec.critics)
        # One more row for the bias.
        hidden = [take(networks, rows + 1, columns) for rows, columns in itertools.pairwise(widths)]
        if shared:
            combined = take(widths[-1] + 1, outputs + width)
            output, value = combined[:, :outputs], combined[:, outputs:]
            return Views(hidden, output, [value], combined, self._head(take), {})
        output = take(widths[-1] + 1, outputs)
        values = [take(widths[-1] + 1, width) for _ in spec.critics]
        return Views(hidden, output, values, output, self._head(take), {})

    def named(self, vector: Array) -> dict[str, Array]:
        """Return the views of a packed [D] vector by canonical name, in canonical order."""
        views = self.views(vector)
        if type(self.spec.network) not in LAID_OUT:
            return views.by_name
        arrays = {f"head.{name}": value for name, value in views.head.items()}
        networks = [("network", views.output), *zip(self.spec.critics, views.values, strict=True)]
        for index, (prefix, last) in enumerate(networks):
            if isinstance(self.spec.network, Table):
                arrays[f"{prefix}.table"] = last
                continue
            # A critic that shares the torso has only the last layer for its own.
            hidden = [layer[index] for layer in views.hidden if index < len(layer)]
            for number, layer in enumerate([*hidden, last]):
                arrays[f"{prefix}.{number}.weight"] = layer[:-1]
                arrays[f"{prefix}.{number}.bias"] = layer[-1]
        return {name: arrays[name] for name in self.shapes}

    def _head(self, take: _Cursor) -> dict[str, Array]:
        return {
            name: take(*value.shape) for name, value in self.spec.head.initial_parameters().items()
        }


class NumpyParameters(Parameters):
    """See `Parameters`.

    Attributes:
        vector: [D] all parameters, in the order of `layout`.
    """

    vector: Array

    @cached_property
    def layout(self) -> PackedLayout:
        """The places of the parameters in `vector`."""
        return PackedLayout(self.spec)

    def parameters(self) -> dict[str, Array]:
        """See `Parameters.parameters`."""
        return {name: view.copy() for name, view in self.layout.named(self.vector).items()}

    def load(self, parameters: Mapping[str, ArrayLike]) -> None:
        """See `Parameters.load`."""
        checked = check_parameters(self.spec, parameters, self.dtype)
        for name, view in self.layout.named(self.vector).items():
            view[...] = checked[name]


class _Cursor:
    """Takes one view after the other from a vector."""

    def __init__(self, vector: Array) -> None:
        self.vector = vector
        self.position = 0

    def __call__(self, *shape: int) -> Array:
        start = self.position
        self.position += int(np.prod(shape))
        return self.vector[start : self.position].reshape(shape)
