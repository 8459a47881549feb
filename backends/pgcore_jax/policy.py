"""Policies that JAX differentiates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from pgcore.autodiff.gathering import Gather
from pgcore.autodiff.inputs import Inputs, Outputs, arrays_in
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
    integers: ClassVar[str] = "int32"
    left_out: ClassVar[frozenset[str]] = (
        JaxParameters.left_out | AutodiffPolicy.left_out | {"network", "_differentiate"}
    )

    def __init__(
        self,
        backend: str,
        spec: PolicySpec,
        dtype: np.dtype[Any],
        network: SpecNetwork | AdoptedNetwork,
        parameters: Mapping[str, Any],
        device: Any,
    ) -> None:
        """Put the parameters on the device.

        Args:
            backend: The backend's name.
            spec: The policy's spec.
            dtype: float32 or float64.
            network: The function of parameters and observations.
            parameters: Arrays by canonical name.
            device: JAX's, None for its default.
        """
        self.backend, self.spec, self.dtype, self.compiled = backend, spec, dtype, True
        self.adopted = network
        self.device = device
        self.native = {name: self.native_array(value) for name, value in parameters.items()}
        self.rebuild()

    def rebuild(self) -> None:
        """See `Copied.rebuild`."""
        super().rebuild()
        # The key of the compiled functions; only an adopted network's outputs need checks.
        self.network = self._checked if isinstance(self.adopted, AdoptedNetwork) else self.adopted
        self._differentiate: tuple[Estimator, Any] | None = None
        device = next(iter(next(iter(self.native.values())).devices()))
        self.resident = device.platform != "cpu"

    @property
    def tree(self) -> Any:
        """The adopted network's current parameters in the tree of the user's function."""
        assert isinstance(self.adopted, AdoptedNetwork)
        return self.adopted.tree_of(self.native)

    @property
    def critic_tree(self) -> Any:
        """The adopted critic's current parameters in the tree of the user's function."""
        assert isinstance(self.adopted, AdoptedNetwork)
        assert self.adopted.critic is not None
        return self.adopted.critic.tree_of(self.native)

    def optimizer_state(self, formula: OptimizerSpec) -> JaxOptimizer:
        """See `Policy.optimizer_state`."""
        return JaxOptimizer(formula, self)

    def forward(self, observations: Any) -> tuple[jax.Array, jax.Array | None]:
        """See `AutodiffPolicy.forward`."""
        with self.precision():
            return functions.forward(self.network)(self.native, observations)[:2]

    def run(self, names: tuple[str, ...], inputs: Inputs) -> dict[str, jax.Array]:
        """See `AutodiffPolicy.run`."""
        with self.precision():
            return functions.run(self.network, self.spec.head, names)(self.native, inputs)

    def differentiate(self, surrogate: Surrogate, inputs: Inputs) -> tuple[JaxGradient, jax.Array]:
        """See `AutodiffPolicy.differentiate`."""
        estimator = surrogate.estimator
        latest = self._differentiate
        # Hashing network, head and estimator takes longer than this comparison.
        if latest is None or latest[0] is not estimator:
            function = functions.differentiate(self.network, self.spec.head, estimator)
            latest = self._differentiate = (estimator, function)
        with self.precision():
            vector, square, columns = latest[1](self.native, inputs)
        return JaxGradient(self, surrogate, vector, columns), square

    def log_prob_products(self, inputs: Inputs, rows: Array) -> Array:
        """See `AutodiffPolicy.log_prob_products`."""
        function = functions.log_prob_products(self.network, self.spec.head)
        with self.precision():
            products = function(self.native, inputs, rows)
        # JAX's dict has sorted names, the rows have canonical order.
        parts = [np.asarray(products[name]).reshape(len(rows), -1) for name in self.names]
        return np.concatenate(parts, axis=1)

    def fisher_product(self, inputs: Inputs, vector: Array) -> Array:
        """See `AutodiffPolicy.fisher_product`."""
        direction = self.leaves(vector)
        function = functions.fisher_product(self.network, self.spec.head)
        with self.precision():
            product = function(self.native, inputs, direction)
        return np.concatenate([np.asarray(product[name]).reshape(-1) for name in self.names])

    def gathered(self, whole: Inputs, gather: Gather) -> Inputs:
        """See `ResidentPolicy.gathered`."""
        with self.precision():
            return functions.gathered(whole, self._of_arrays(gather))

    def finalised_minibatch(
        self, whole: Inputs, gather: Gather, estimator: Estimator, real: Any
    ) -> Inputs:
        """See `ResidentPolicy.finalised_minibatch`; one function where both steps compile."""
        if gather.unneeded or type(estimator).finalise_on is Estimator.finalise_on:
            return super().finalised_minibatch(whole, gather, estimator, real)
        with self.precision():
            function = functions.finalised_minibatch(estimator)
            return function(whole, self._of_arrays(gather), real)

    def _of_arrays(self, gather: Gather) -> Gather:
        """Return a gather whose numbers are arrays, since others would compile anew."""
        number = self.dtype.type
        standards: dict[str, tuple[Any, ...]] = {}
        for name, constants in gather.standards.items():
            standards[name] = tuple(map(number, constants))
        rows = gather.signal_rows
        return gather._replace(
            scales=tuple(map(number, gather.scales)),
            standards=standards,
            # Each array is moved by itself.
            signal_rows=() if rows is gather.rows and rows is not None else rows,
        )

    def moved_numbers(self, rows: Array) -> Any:
        """See `ResidentPolicy.moved_numbers`; compiled code moves its arguments in a third of the time."""
        return rows

    def finalised(self, estimator: Estimator, signals: dict[str, Any], real: Any) -> dict[str, Any]:
        """See `ResidentPolicy.finalised`; compiled where the estimator writes `finalise_on`."""
        if type(estimator).finalise_on is Estimator.finalise_on:
            return super().finalised(estimator, signals, real)
        with self.precision():
            return functions.finalised(estimator)(signals, real)

    def _checked(self, parameters: Mapping[str, jax.Array], observations: Any) -> Outputs:
        """Return an adopted network's results, with checked shapes; run while JAX traces."""
        result = self.adopted(parameters, observations)
        result = result._replace(values=self.flat_values(result.values))
        self.check_outputs(result.outputs, result.values, len(arrays_in(observations)[0]))
        return result
