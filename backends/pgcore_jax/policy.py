"""Policies that JAX differentiates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from pgcore.autodiff.inputs import Inputs, Outputs
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.data.spec import PolicySpec
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore_jax import compiled as functions
from pgcore_jax.gradient import JaxGradient
from pgcore_jax.networks import AdoptedNetwork, SpecNetwork
from pgcore_jax.optimizers import JaxOptimizer
from pgcore_jax.parameters import JaxParameters

__all__ = ["JaxPolicy"]


class JaxPolicy(JaxParameters, AutodiffPolicy):
    """See `AutodiffPolicy`.

    Attributes:
        network: The function of parameters and observations.
    """

    pads = True
    left_out: ClassVar[frozenset[str]] = JaxParameters.left_out | {"network", "_differentiate"}

    def __init__(
        self,
        backend: str,
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
        self.native = {name: self.native_array(value) for name, value in parameters.items()}
        self.rebuild()

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        super().rebuild()
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

    def optimizer_state(self, formula: OptimizerSpec) -> JaxOptimizer:
        """See `Policy.optimizer_state`."""
        return JaxOptimizer(formula, self)

    def forward(self, observations: Array) -> tuple[Array, Array | None]:
        """See `AutodiffPolicy.forward`."""
        with self.precision():
            found: Outputs = functions.forward(self.network)(self.native, observations)
        return np.asarray(found.outputs), None if found.values is None else np.asarray(found.values)

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
            kept = self._differentiate = (
                estimator,
                functions.differentiate(self.network, self.spec.head, estimator),
            )
        with self.precision():
            vector, square, columns = kept[1](self.native, inputs)
        # By way of NumPy, which is faster than JAX's own conversion of a scalar.
        return JaxGradient(self, surrogate, vector, columns), float(np.asarray(square))

    def log_prob_products(self, inputs: Inputs, rows: Array) -> Array:
        """See `AutodiffPolicy.log_prob_products`."""
        with self.precision():
            found = functions.log_prob_products(self.network, self.spec.head)(
                self.native, inputs, rows
            )
        return np.concatenate(
            [np.asarray(found[name]).reshape(len(rows), -1) for name in self.names], axis=1
        )

    def fisher_product(self, inputs: Inputs, vector: Array) -> Array:
        """See `AutodiffPolicy.fisher_product`."""
        direction = self.leaves(vector)
        with self.precision():
            found = functions.fisher_product(self.network, self.spec.head)(
                self.native, inputs, direction
            )
        return np.concatenate([np.asarray(found[name]).reshape(-1) for name in self.names])

    def _checked(self, parameters: Mapping[str, jax.Array], observations: jax.Array) -> Outputs:
        """Return what an adopted network says, once its shapes are right; run while JAX traces."""
        found = self.adopted(parameters, observations)
        found = found._replace(values=self.flat_values(found.values))
        self.check_outputs(found.outputs, found.values, len(observations))
        return found
