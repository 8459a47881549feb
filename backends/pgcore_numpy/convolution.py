"""The closed form of a network of images: windows side by side, and matrix products."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from pgcore.data.activations import activation
from pgcore.data.convolution import Conv
from pgcore.validation.arrays import Array
from pgcore_numpy.activations import make_activation
from pgcore_numpy.closed_form import ClosedForm, make_network
from pgcore_numpy.xp import xp

__all__ = ["ConvForm"]

Parameters = Mapping[str, Array]


class ConvForm(ClosedForm):
    """See `ClosedForm`; the torso of `Conv`.

    A convolution is a product of its windows, [n H' W', h w C], with its kernel, [h w C, channels]. The
    windows are made anew where they are needed, since they take several times the image's memory.
    """

    def __init__(self, network: Conv) -> None:
        """Keep the network.

        Raises:
            SpecError: its activation has no slope of its own.
        """
        self.network, self.function = network, activation(network.activation)
        make_activation(self.function)
        # Convolutions first, then the fully connected layers.
        convolutions = [f"conv.{number}" for number in range(len(network.layers))]
        self.names = convolutions + [f"hidden.{n}" for n in range(len(network.widths) - 1)]
        self.layers, self.sizes = network.layers, network.sizes
        # By layer: input, pre-activations, activations.
        self.passed: list[tuple[Array, Array, Array]] = []

    def forward(self, parameters: Parameters, observations: Array) -> Array:
        """See `ClosedForm.forward`."""
        self.passed = []
        x = observations.astype(parameters["conv.0.weight"].dtype, copy=False)
        if self.network.scale != 1.0:
            x = x / self.network.scale
        for layer, name in enumerate(self.names):
            x = self._into(layer, x)
            before = self._linear(layer, x, parameters[f"{name}.weight"])
            before += parameters[f"{name}.bias"]
            after = self.function.value(xp, before)
            self.passed.append((x, before, after))
            x = after
        return x.reshape(len(x), -1)

    def backward(self, parameters: Parameters, d: Array, steps: slice) -> dict[str, Array]:
        """See `ClosedForm.backward`."""
        gradient: dict[str, Array] = {}
        for layer in reversed(range(len(self.names))):
            name = self.names[layer]
            x, before, after = (array[steps] for array in self.passed[layer])
            d = d.reshape(before.shape) * self.function.slope(xp, before, after)
            weight = parameters[f"{name}.weight"]
            columns = d.reshape(-1, d.shape[-1])
            gradient[f"{name}.weight"] = (self._rows(layer, x).T @ columns).reshape(weight.shape)
            gradient[f"{name}.bias"] = columns.sum(axis=0)
            # Nothing asks for the derivative in the observations.
            if layer > 0:
                d = self._back(layer, columns @ weight.reshape(-1, weight.shape[-1]).T, x)
        return gradient

    def tangent(self, parameters: Parameters, direction: Parameters) -> Array:
        """See `ClosedForm.tangent`."""
        moved: Array | None = None
        for layer, name in enumerate(self.names):
            x, before, after = self.passed[layer]
            change = self._linear(layer, x, direction[f"{name}.weight"])
            change += direction[f"{name}.bias"]
            if moved is not None:
                through = self._into(layer, moved)
                change += self._linear(layer, through, parameters[f"{name}.weight"])
            moved = change * self.function.slope(xp, before, after)
        assert moved is not None
        return moved.reshape(len(moved), -1)

    def _into(self, layer: int, x: Array) -> Array:
        """Return a layer's input in its shape: images, or rows behind the convolutions."""
        return x if layer < len(self.layers) else x.reshape(len(x), -1)

    def _linear(self, layer: int, x: Array, weight: Array) -> Array:
        """Return the layer's linear map of its input, [n, H', W', channels] or [n, width]."""
        result = self._rows(layer, x) @ weight.reshape(-1, weight.shape[-1])
        if layer >= len(self.layers):
            return result
        return result.reshape(len(x), *self.sizes[layer + 1])

    def _rows(self, layer: int, x: Array) -> Array:
        """Return the rows that the layer's weight multiplies: a row for each window, or each step."""
        if layer >= len(self.layers):
            return x
        _, kernel, stride = self.layers[layer]
        # [n, H', W', C, h, w], a view.
        windows: Any = sliding_window_view(x, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
        return windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, kernel * kernel * x.shape[-1])

    def _back(self, layer: int, d_rows: Array, x: Array) -> Array:
        """Return the derivatives in a layer's input from those in its rows."""
        if layer >= len(self.layers):
            return d_rows
        _, kernel, stride = self.layers[layer]
        height, width, _ = self.sizes[layer + 1]
        d_windows = d_rows.reshape(len(x), height, width, kernel, kernel, x.shape[-1])
        d = np.zeros_like(x)
        # A pixel is in several windows; within one place of all windows it is there once.
        for i in range(kernel):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            for j in range(kernel):
                columns = slice(j, j + stride * (width - 1) + 1, stride)
                d[:, rows, columns] += d_windows[:, :, :, i, j]
        return d


make_network.register(Conv, ConvForm)
