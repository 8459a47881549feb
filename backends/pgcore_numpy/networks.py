"""Forward and backward passes of the built-in networks, in buffers that are allocated once."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from pgcore.data.activations import activation
from pgcore.data.networks import MLP, Linear, Table
from pgcore.data.spec import PolicySpec
from pgcore.validation.arrays import Array
from pgcore_numpy.activations import Relu, Sigmoid, Tanh, make_activation
from pgcore_numpy.blocks import ALL
from pgcore_numpy.closed_form import make_network
from pgcore_numpy.formula_networks import FormulaNetwork
from pgcore_numpy.network import Network
from pgcore_numpy.parameters import Views

__all__ = [
    "DenseNetwork",
    "Relu",
    "Sigmoid",
    "TableNetwork",
    "Tanh",
    "build_network",
    "check_network",
    "make_network",
]

# Bytes of processors' cache lines; none that NumPy runs on has longer vectors.
CACHE_LINE = 64


def check_network(network: object) -> None:
    """Raise SpecError unless network and activation have a closed form."""
    if type(network) not in BUILT_IN:
        make_network(network)
    elif isinstance(network, MLP):
        make_activation(activation(network.activation))


def build_network(
    spec: PolicySpec, steps: int, dtype: np.dtype[Any], *, with_value: bool
) -> Network:
    """Return the spec's network with buffers for a number of steps."""
    # A subclass of a built-in network may compute something else, so the type must be the very one.
    build: Any = BUILT_IN.get(type(spec.network), FormulaNetwork)
    return build(spec, steps, dtype, with_value=with_value)


class DenseNetwork(Network):
    """Hidden layers with one activation and a linear output layer; none at all for `Linear`.

    With critics of their own networks all run side by side, in one matrix product a layer.
    """

    def __init__(
        self, spec: PolicySpec, steps: int, dtype: np.dtype[Any], *, with_value: bool
    ) -> None:
        """Allocate the buffers; every layer's input ends in a row of ones, which the bias multiplies."""
        network: Any = spec.network
        # A separate critic is another network; a shared one is more columns of the output layer.
        self.combined = with_value and spec.critic == "shared"
        self.critics = len(spec.critics) if with_value and not self.combined else 0
        self.networks = 1 + self.critics
        self.activations = [make_activation(activation(network.activation)) for _ in network.hidden]
        self.x = buffer((network.inputs + 1, steps), dtype)
        self.inputs = self.x[:-1]
        # `h` are activations, `d` derivatives in the pre-activations, layer by layer.
        self.h = [buffer((self.networks, width + 1, steps), dtype) for width in network.hidden]
        self.active = [buffer[:, :-1] for buffer in self.h]
        self.d = [buffer((self.networks, width, steps), dtype) for width in network.hidden]
        self.d_transposed = [buffer.swapaxes(1, 2) for buffer in self.d]
        # Layers of one width take turns with one scratch buffer.
        scratch = {
            width: buffer((self.networks, width, steps), dtype) for width in set(network.hidden)
        }
        self.scratch = [scratch[width] for width in network.hidden]
        self.source = [self.x, *self.h[:-1]] if self.h else []
        self.last = self.h[-1] if self.h else self.x[None]
        outputs, critic = spec.head.outputs, spec.critic_outputs
        self.out = np.empty((outputs + critic * self.combined, steps), dtype)
        self.outputs = self.out[:outputs]
        self.values = self.out[outputs:] if self.combined else np.empty((critic, steps), dtype)
        # The values, and their inputs, of each critic that is a network.
        self.rows = row_blocks(self.values, self.critics)
        self.below = [self.last[1 + number if self.h else 0] for number in range(self.critics)]
        self.parameters: Views | None = None
        self.gradient: Views | None = None

    def attach(self, parameters: Views) -> None:
        """Keep views of the weights, as the products of forward and backward passes take them."""
        self.parameters = parameters
        hidden = [weight[: self.networks] for weight in parameters.hidden]
        # One product gives outputs and values of a shared torso.
        last = parameters.combined if self.combined else parameters.output
        values = parameters.values[: self.critics]
        upward = [weight.swapaxes(1, 2) for weight in hidden]
        self.layers = [*zip(upward, self.source, self.active, self.activations, strict=True)]
        self.tops = [(last.T, self.last[0], self.out)]
        self.tops += zip((value.T for value in values), self.below, self.rows, strict=True)
        # The last row of a weight is its bias, which carries nothing back.
        self.downward = [weight[:, :-1] for weight in hidden]
        self.output = last[:-1]
        below = self.d[-1][1:] if self.d else ()
        self.critic_tops = [(value[:-1], out) for value, out in zip(values, below, strict=False)]

    def forward(self, parameters: Views, observations: Array) -> None:
        """See `Network.forward`."""
        # A policy has the same views for all of its life.
        if parameters is not self.parameters:
            self.attach(parameters)
        self.inputs[...] = observations.T
        for weight, source, active, function in self.layers:
            np.matmul(weight, source, out=active)
            function.apply(active)
        for weight, below, out in self.tops:
            np.matmul(weight, below, out=out)

    def backward(self, parameters: Views, d_outputs: Array, d_values: Array) -> None:
        """See `Network.backward`."""
        d_rows = row_blocks(d_values, self.critics)
        d_out = np.concatenate((d_outputs, d_values)) if self.combined else d_outputs
        self.d_tops = [(self.last[0], d_out.T)]
        self.d_tops += zip(self.below, (rows.T for rows in d_rows), strict=True)
        if not self.h:
            return
        d = self.d
        np.matmul(self.output, d_out, out=d[-1][0])
        # For one value a step, multiplying with broadcasting is faster than a matrix product.
        product = np.multiply if len(d_values) == 1 else np.matmul
        for (weight, out), rows in zip(self.critic_tops, d_rows, strict=True):
            product(weight, rows, out=out)
        for layer in reversed(range(len(d))):
            self.activations[layer].multiply_derivative(
                d[layer], self.active[layer], self.scratch[layer]
            )
            if layer > 0:
                np.matmul(self.downward[layer], d[layer], out=d[layer - 1])

    def collect(self, gradient: Views, steps: slice) -> None:
        """See `Network.collect`."""
        # A workspace has the same views for all of its life.
        if gradient is not self.gradient:
            self.gradient = gradient
            self.targets = [target[: self.networks] for target in gradient.hidden]
            self.targets.append(gradient.combined if self.combined else gradient.output)
            self.targets += gradient.values[: self.critics]
        # Inputs end in a row of ones, so that one product gives weight and bias.
        factors = itertools.chain(zip(self.source, self.d_transposed, strict=True), self.d_tops)
        for (inputs, derivatives), target in zip(factors, self.targets, strict=True):
            if steps == ALL:
                np.matmul(inputs, derivatives, out=target)
            else:
                np.matmul(inputs[..., steps], derivatives[..., steps, :], out=target)

    def tangent(self, parameters: Views, direction: Views) -> Array:
        """See `Network.tangent`."""
        below: Array | None = None
        for layer, along in enumerate(direction.hidden):
            source = self.x if layer == 0 else self.h[layer - 1][0]
            # `backward` comes after, so its buffers are free.
            tangent, scratch = self.d[layer][0], self.scratch[layer][0]
            np.matmul(along[0].T, source, out=tangent)
            if below is not None:
                np.matmul(parameters.hidden[layer][0, :-1].T, below, out=scratch)
                np.add(tangent, scratch, out=tangent)
            self.activations[layer].multiply_derivative(tangent, self.active[layer][0], scratch)
            below = tangent
        result = direction.output.T @ self.last[0]
        if below is not None:
            result += parameters.output[:-1].T @ below
        return result


class TableNetwork(Network):
    """A table with one row of outputs a state."""

    def __init__(
        self, spec: PolicySpec, steps: int, dtype: np.dtype[Any], *, with_value: bool
    ) -> None:
        """Keep the sizes; a lookup needs no buffers."""
        self.with_value = with_value
        self.states = np.empty(steps, np.intp)
        self.outputs = self.d_outputs = np.empty((spec.head.outputs, steps), dtype)
        self.values = self.d_values = np.empty((spec.critic_outputs, steps), dtype)

    def forward(self, parameters: Views, observations: Array) -> None:
        """See `Network.forward`."""
        self.states = observations.astype(np.intp, copy=False)
        self.outputs = parameters.output.take(self.states, axis=0).T.copy()
        if self.with_value:
            rows = [value.take(self.states, axis=0).T for value in parameters.values]
            self.values = rows[0] if len(rows) == 1 else np.concatenate(rows)

    def backward(self, parameters: Views, d_outputs: Array, d_values: Array) -> None:
        """See `Network.backward`."""
        self.d_outputs, self.d_values = d_outputs, d_values

    def collect(self, gradient: Views, steps: slice) -> None:
        """See `Network.collect`."""
        _sum_by_state(gradient.output, self.states[steps], self.d_outputs[:, steps])
        if self.with_value:
            blocks = row_blocks(self.d_values, len(gradient.values))
            for value, d_rows in zip(gradient.values, blocks, strict=True):
                _sum_by_state(value, self.states[steps], d_rows[:, steps])

    def tangent(self, parameters: Views, direction: Views) -> Array:
        """See `Network.tangent`."""
        return direction.output.take(self.states, axis=0).T.copy()


def buffer(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return an array of ones that begins with a cache line, which NumPy's own do not.

    Elementwise work on activations then takes two thirds of the time.
    """
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    array = memory[start : start + size].view(dtype).reshape(shape)
    array[...] = 1
    return array


def row_blocks(rows: Array, count: int) -> list[Array]:
    """Return views of that many blocks of the rows, all of one size."""
    # Most policies have one critic, and `np.split` takes its time.
    return [rows] if count == 1 else np.split(rows, count) if count else []


def _sum_by_state(target: Array, states: Array, d: Array) -> None:
    """Write to [S, k] the sums of [k, n] over the steps of each state."""
    rows, columns = target.shape
    # `bincount` over flat positions is several times faster than `np.add.at`.
    position = (np.arange(columns)[:, None] * rows + states).reshape(-1)
    target[...] = (
        np.bincount(position, weights=d.reshape(-1), minlength=rows * columns)
        .reshape(columns, rows)
        .T
    )


# The networks with buffers and fused products; `parameters.py` lays out their parameters.
BUILT_IN: dict[type[Any], type[Network]] = {
    Table: TableNetwork,
    Linear: DenseNetwork,
    MLP: DenseNetwork,
}
