"""Policies that autograd differentiates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from autograd.core import make_vjp
from autograd.tracer import getval

from hips.gradient import HipsGradient, silent
from hips.heads import fisher_coordinates, fisher_metric, quantities, surrogate_terms
from hips.networks import network_outputs
from hips.optimizers import HipsOptimizer
from hips.parameters import HipsParameters
from hips.xp import tied
from pgcore.autodiff.inputs import Inputs, Outputs
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.data.spec import PolicySpec
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.parameters import flat
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array

__all__ = ["HipsPolicy"]


class HipsPolicy(HipsParameters, AutodiffPolicy):
    """See `AutodiffPolicy`."""

    pads = False

    def __init__(
        self,
        backend: str,
        spec: PolicySpec,
        dtype: np.dtype[Any],
        parameters: Mapping[str, Array],
    ) -> None:
        """Take the parameters over."""
        self.backend, self.spec, self.dtype = backend, spec, dtype
        self.vector = flat(parameters).astype(dtype)

    def optimizer_state(self, formula: OptimizerSpec) -> HipsOptimizer:
        """See `Policy.optimizer_state`."""
        return HipsOptimizer(formula, self)

    @silent
    def forward(self, observations: Array) -> tuple[Array, Array | None]:
        """See `AutodiffPolicy.forward`."""
        result = self._outputs(self.vector, observations)
        return result.outputs, result.values

    @silent
    def run(self, names: tuple[str, ...], inputs: Inputs) -> dict[str, Array]:
        """See `AutodiffPolicy.run`."""
        outputs = self._outputs(self.vector, inputs.observations)
        return quantities(self.spec.head, names, outputs, inputs)

    @silent
    def differentiate(self, surrogate: Surrogate, inputs: Inputs) -> tuple[HipsGradient, float]:
        """See `AutodiffPolicy.differentiate`."""
        used: dict[str, Array] = {}

        def terms_of(vector: Any) -> Any:
            outputs = self._outputs(vector, inputs.observations)
            terms, values = surrogate_terms(self.spec.head, surrogate.estimator, outputs, inputs)
            used.update({name: getval(value) for name, value in values.items()})
            return terms

        pull, terms = pullback(terms_of, self.vector)
        leaves = self.leaves(pull(inputs.weights))
        gradient = HipsGradient(self, surrogate, leaves, terms, used)
        return gradient, gradient.square()

    @silent
    def log_prob_products(self, inputs: Inputs, rows: Array) -> Array:
        """See `AutodiffPolicy.log_prob_products`."""

        def log_prob(vector: Any) -> Any:
            outputs = self._outputs(vector, inputs.observations)
            return quantities(self.spec.head, ("log_prob",), outputs, inputs)["log_prob"]

        # One forward pass serves all rows.
        pull, _ = pullback(log_prob, self.vector)
        return np.array([pull(row) for row in rows], self.dtype)

    @silent
    def fisher_product(self, inputs: Inputs, vector: Array) -> Array:
        """See `AutodiffPolicy.fisher_product`.

        J^T u is linear in u, so its derivative in u is J. Reverse mode twice, since autograd has
        it for more functions than forward mode.
        """
        head = self.spec.head

        def coordinates(at: Any) -> Any:
            outputs = self._outputs(at, inputs.observations)
            return fisher_coordinates(head, outputs, inputs)

        pull, values = pullback(coordinates, self.vector)
        push, _ = pullback(pull, np.zeros_like(values))
        return pull(fisher_metric(head, values, push(vector), inputs)).astype(self.dtype)

    def _outputs(self, vector: Any, observations: Array) -> Outputs:
        return network_outputs(self.spec, self.layout, vector, observations)


def pullback(function: Callable[[Any], Any], at: Array) -> tuple[Callable[[Any], Any], Array]:
    """Return J^T of a function as a function of a cotangent, and the function's value.

    Args:
        function: From an array to an array; it may depend on nothing, and J is then 0.
        at: The function's argument, where J is taken.
    """
    return make_vjp(lambda x: tied(function(x), x), at)
