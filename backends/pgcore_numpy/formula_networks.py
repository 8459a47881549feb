"""Networks of other distributions, run by their closed forms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.data.networks import TorsoNetwork
from pgcore.data.spec import PolicySpec, under
from pgcore.validation.arrays import Array
from pgcore_numpy.closed_form import ClosedForm, make_network
from pgcore_numpy.network import Network
from pgcore_numpy.parameters import Views

__all__ = ["FormulaNetwork"]

# The canonical name of the output layer of a critic on a shared torso.
SHARED_LAYER = "critic.0"


class FormulaNetwork(Network):
    """Registered closed forms under the output layers that the backend adds."""

    def __init__(
        self, spec: PolicySpec, steps: int, dtype: np.dtype[Any], *, with_value: bool
    ) -> None:
        """Make the closed forms, one for each network."""
        self.spec, self.dtype = spec, dtype
        self.outputs = self.d_outputs = np.empty((spec.head.outputs, steps), dtype)
        self.values = self.d_values = np.empty((spec.critic_outputs, steps), dtype)
        # A stack is a closed form, with an output layer on top where the form is a torso's.
        layer = spec.network.output_layer if isinstance(spec.network, TorsoNetwork) else None
        self.actor = Stack(make_network(spec.network), "network", layer)
        self.shared = spec.critic == "shared" and with_value
        separate = spec.critics if spec.critic == "separate" and with_value else ()
        self.critics = [Stack(make_network(spec.network), prefix, layer) for prefix in separate]
        self.parameters: Mapping[str, Array] = {}

    def forward(self, parameters: Views, observations: Array) -> None:
        """See `Network.forward`."""
        self.parameters = parameters.by_name
        self.outputs = self._columns(self.actor.forward(self.parameters, observations))
        if self.shared:
            self.values = self._columns(
                affine_of(self.parameters, SHARED_LAYER, self.actor.features)
            )
        elif self.critics:
            values = [critic.forward(self.parameters, observations) for critic in self.critics]
            self.values = self._columns(np.concatenate(values, axis=1))

    def backward(self, parameters: Views, d_outputs: Array, d_values: Array) -> None:
        """See `Network.backward`; the derivatives wait for `collect`, which names the steps."""
        self.d_outputs, self.d_values = d_outputs, d_values

    def collect(self, gradient: Views, steps: slice) -> None:
        """See `Network.collect`."""
        d_features: Array | None = None
        # A shared torso has derivatives from both output layers.
        if self.shared:
            d = self.d_values[:, steps].T
            collect_affine(gradient.by_name, SHARED_LAYER, self.actor.features[steps], d)
            d_features = d @ self.parameters[f"{SHARED_LAYER}.weight"].T
        elif self.critics:
            blocks = np.split(self.d_values[:, steps].T, len(self.critics), axis=1)
            for critic, d in zip(self.critics, blocks, strict=True):
                critic.collect(self.parameters, gradient.by_name, d, steps)
        self.actor.collect(
            self.parameters, gradient.by_name, self.d_outputs[:, steps].T, steps, d_features
        )

    def tangent(self, parameters: Views, direction: Views) -> Array:
        """See `Network.tangent`."""
        return self._columns(self.actor.tangent(parameters.by_name, direction.by_name))

    def _columns(self, rows: Array) -> Array:
        """Return [n, k] as a [k, n] array of the policy's dtype that may be written to."""
        return np.array(rows.T, self.dtype, order="C")


class Stack:
    """One network's closed form and, where that is a torso's, the affine layer above it.

    Attributes:
        features: [n, k] the result of the closed form's `forward`.
    """

    def __init__(self, form: ClosedForm, prefix: str, layer: str | None) -> None:
        """Keep the closed form, its parameters' prefix and its output layer's name."""
        self.form, self.prefix = form, prefix
        self.layer = None if layer is None else f"{prefix}.{layer}"
        self.features: Array = np.empty((0, 0))

    def forward(self, parameters: Mapping[str, Array], observations: Array) -> Array:
        """Return [n, outputs] from parameters by canonical name."""
        self.features = self.form.forward(under(self.prefix, parameters), observations)
        if self.layer is None:
            return self.features
        return affine_of(parameters, self.layer, self.features)

    def collect(
        self,
        parameters: Mapping[str, Array],
        gradient: Mapping[str, Array],
        d: Array,
        steps: slice,
        d_features: Array | None = None,
    ) -> None:
        """Write the derivatives of all parameters, summed over some steps, to a gradient's arrays.

        Args:
            parameters: By canonical name.
            gradient: Arrays to write to, by canonical name.
            d: [m, outputs] the loss's derivatives in the outputs at these steps.
            steps: Which of the block's steps.
            d_features: [m, k] derivatives in the features from a shared critic, or None.
        """
        # Through the output layer first, then through the network below it.
        if self.layer is not None:
            collect_affine(gradient, self.layer, self.features[steps], d)
            d = d @ parameters[f"{self.layer}.weight"].T
        if d_features is not None:
            d = d + d_features
        for name, value in self.form.backward(under(self.prefix, parameters), d, steps).items():
            gradient[f"{self.prefix}.{name}"][...] = value

    def tangent(self, parameters: Mapping[str, Array], direction: Mapping[str, Array]) -> Array:
        """Return [n, outputs], the derivative along a direction by canonical name."""
        tangent = self.form.tangent(under(self.prefix, parameters), under(self.prefix, direction))
        if self.layer is None:
            return tangent
        # The product rule: the features change, and so do the output layer's parameters.
        through = tangent @ parameters[f"{self.layer}.weight"]
        return through + affine_of(direction, self.layer, self.features)


def affine_of(parameters: Mapping[str, Array], layer: str, x: Array) -> Array:
    """Return [n, outputs] from x [n, inputs] by the layer of a canonical name."""
    return x @ parameters[f"{layer}.weight"] + parameters[f"{layer}.bias"]


def collect_affine(gradient: Mapping[str, Array], layer: str, x: Array, d: Array) -> None:
    """Write an affine layer's derivatives from its inputs x [m, inputs] and d [m, outputs]."""
    gradient[f"{layer}.weight"][...] = x.T @ d
    gradient[f"{layer}.bias"][...] = d.sum(axis=0)
