"""Policies that JAX differentiates."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import jax
import numpy as np
from numpy.typing import ArrayLike

from pgcore.arrays import Array
from pgcore.autodiff import AutodiffPolicy, Inputs, Outputs
from pgcore.estimator import Estimator
from pgcore.fitting import check_parameters
from pgcore.spec import PolicySpec
from pgcore.surrogate import Surrogate
from pgcore_jax import compiled as functions
from pgcore_jax.gradient import JaxGradient
from pgcore_jax.networks import AdoptedNetwork, SpecNetwork

if TYPE_CHECKING:
    from pgcore_jax.backend import JaxBackend

__all__ = ["JaxPolicy"]


class JaxPolicy(AutodiffPolicy):
    """See `AutodiffPolicy`. JAX arrays never change, so `native` is another dict after each step.

    Attributes:
        network: The function of parameters and observations.
        native: The parameters by canonical name.
        device: Where they are.
    """

    pads = True
    left_out: ClassVar[frozenset[str]] = AutodiffPolicy.left_out | {"network", "_differentiate"}

    def __init__(
        self,
        backend: JaxBackend,
        spec: PolicySpec,
        dtype: np.dtype[Any],
        network: SpecNetwork | AdoptedNetwork,
        parameters: Mapping[str, Any],
        device: Any,
    ) -> None:
        """Put the parameters on the device, or leave them where they are."""
        self.backend, self.spec, self.dtype, self.compiled = backend, spec, dtype, True
        self.adopted = network
        self.device = device
        self.names = tuple(parameters)
        self.native = {name: self.native_array(value) for name, value in parameters.items()}
        self.size = sum(value.size for value in self.native.values())
        self.rebuild()

    def __getstate__(self) -> dict[str, Any]:
        """See `Copied`: JAX reads its own arrays back as float32 by default, and devices do not pickle."""
        native = {name: np.asarray(value) for name, value in self.native.items()}
        return super().__getstate__() | {"native": native, "device": device_name(self.device)}

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        if isinstance(self.device, str):
            platform, _, index = self.device.partition(":")
            self.device = jax.devices(platform)[int(index)]
        if not all(isinstance(value, jax.Array) for value in self.native.values()):
            self.native = {name: self.native_array(value) for name, value in self.native.items()}
        self.network = self._checked if isinstance(self.adopted, AdoptedNetwork) else self.adopted
        self._differentiate: tuple[Estimator, Any] | None = None

    @property
    def tree(self) -> Any:
        """The adopted network's parameters as its function takes them, as they are now."""
        assert isinstance(self.adopted, AdoptedNetwork)
        return self.adopted.built(self.native)

    @property
    def critic_tree(self) -> Any:
        """The adopted critic's parameters as its function takes them, as they are now."""
        assert isinstance(self.adopted, AdoptedNetwork)
        assert self.adopted.critic is not None
        return self.adopted.critic.built(self.native)

    def precision(self) -> AbstractContextManager[Any]:
        """Return the context in which JAX computes in the policy's dtype; the process's own setting is left alone."""
        return jax.enable_x64(self.dtype == np.float64)

    def native_array(self, value: Any) -> jax.Array:
        """Return an array of the policy's dtype on its device."""
        with self.precision():
            return jax.device_put(np.array(value, self.dtype), self.device)

    def parameters(self) -> dict[str, Array]:
        """See `Policy.parameters`."""
        return {name: self.canonical(name, self.native[name]) for name in self.names}

    def load(self, parameters: Mapping[str, ArrayLike]) -> None:
        """See `Policy.load`."""
        checked = check_parameters(self.spec, parameters, self.dtype)
        self.native = {name: self.native_array(value) for name, value in checked.items()}

    def forward(self, observations: Array) -> tuple[Array, Array | None]:
        """See `AutodiffPolicy.forward`."""
        with self.precision():
            found: Outputs = functions.forward(self.network)(self.native, observations)
        return np.asarray(found.outputs), None if found.values is None else np.asarray(found.values)

    def head_parameters(self) -> dict[str, Array]:
        """See `AutodiffPolicy.head_parameters`."""
        own = {name: value for name, value in self.native.items() if name.startswith("head.")}
        return {name.removeprefix("head."): np.asarray(value) for name, value in own.items()}

    def run(self, names: tuple[str, ...], inputs: Inputs) -> dict[str, Array]:
        """See `AutodiffPolicy.run`."""
        with self.precision():
            found = functions.run(self.network, self.spec.head, names)(self.native, inputs)
        return {name: np.asarray(value) for name, value in found.items()}

    def differentiate(self, surrogate: Surrogate, inputs: Inputs) -> tuple[JaxGradient, float]:
        """See `AutodiffPolicy.differentiate`."""
        estimator = surrogate.estimator
        kept = self._differentiate
        if kept is None or kept[0] is not estimator:
            kept = self._differentiate = estimator, functions.differentiate(self.network, self.spec.head, estimator)
        with self.precision():
            vector, square, columns = kept[1](self.native, inputs)
        # By way of NumPy, which is faster than JAX's own conversion of a scalar.
        return JaxGradient(self, surrogate, vector, columns), float(np.asarray(square))

    def log_prob_products(self, inputs: Inputs, rows: Array) -> Array:
        """See `AutodiffPolicy.log_prob_products`."""
        with self.precision():
            found = functions.log_prob_products(self.network, self.spec.head)(self.native, inputs, rows)
        return np.concatenate([np.asarray(found[name]).reshape(len(rows), -1) for name in self.names], axis=1)

    def fisher_product(self, inputs: Inputs, vector: Array) -> Array:
        """See `AutodiffPolicy.fisher_product`."""
        direction = self.leaves(vector)
        with self.precision():
            found = functions.fisher_product(self.network, self.spec.head)(self.native, inputs, direction)
        return np.concatenate([np.asarray(found[name]).reshape(-1) for name in self.names])

    def leaves(self, vector: Array) -> dict[str, jax.Array]:
        """See `AutodiffPolicy.leaves`."""
        shapes = self.spec.parameter_shapes
        ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
        parts = np.split(vector, ends[:-1])
        return {
            name: self.native_array(part.reshape(shape))
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def parts(self, vector: jax.Array) -> dict[str, jax.Array]:
        """Return the arrays by name that a flat gradient or slot consists of."""
        names = tuple(sorted(self.names))
        with self.precision():
            return functions.split(names, tuple(self.native[name].shape for name in names))(vector)

    def joined(self, leaves: Mapping[str, jax.Array]) -> jax.Array:
        """Return the flat gradient or slot that consists of arrays by name."""
        with self.precision():
            return functions.flat(dict(leaves))

    def canonical(self, name: str, leaf: jax.Array) -> Array:
        """See `AutodiffPolicy.canonical`."""
        return np.array(leaf)

    def to_numpy(self, native: jax.Array) -> Array:
        """See `AutodiffPolicy.to_numpy`."""
        return np.asarray(native)

    def _checked(self, parameters: Mapping[str, jax.Array], observations: jax.Array) -> Outputs:
        """Return what an adopted network says, once its shapes are right; run while JAX traces."""
        found = self.adopted(parameters, observations)
        found = found._replace(values=self.flat_values(found.values))
        self.check_outputs(found.outputs, found.values, len(observations))
        return found


def device_name(device: Any) -> str | None:
    """Return a device's platform and its index there, None for JAX's default."""
    return None if device is None else f"{device.platform}:{jax.devices(device.platform).index(device)}"
