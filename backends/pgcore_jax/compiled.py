"""What is compiled: one function for each network, head and estimator, kept for all policies that share them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from pgcore.autodiff.inputs import Inputs, Outputs
from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore_jax.heads import fisher_coordinates, fisher_metric, quantities, surrogate_terms
from pgcore_jax.parameters import KEPT, jitted
from pgcore_jax.xp import xp

__all__ = ["differentiate", "fisher_product", "forward", "log_prob_products", "run", "update"]

Parameters = dict[str, jax.Array]
Network = Callable[[Parameters, Any], Outputs]


@lru_cache(KEPT)
def forward(network: Network) -> Callable[..., Outputs]:
    """Return the function from parameters and observations to what the network says."""
    return jitted(network)


@lru_cache(KEPT)
def run(network: Network, head: Head, names: tuple[str, ...]) -> Callable[..., Parameters]:
    """Return the function from parameters and inputs to quantities by name."""

    def quantities_of(parameters: Parameters, inputs: Inputs) -> Parameters:
        return quantities(head, names, network(parameters, inputs.observations), inputs)

    return jitted(quantities_of)


@lru_cache(KEPT)
def differentiate(network: Network, head: Head, estimator: Estimator) -> Callable[..., Any]:
    """Return the function from parameters and inputs to the flat gradient, its sum of squares, and terms and quantities in columns."""

    def loss(parameters: Parameters, inputs: Inputs) -> tuple[jax.Array, Any]:
        terms, named = surrogate_terms(
            head, estimator, network(parameters, inputs.observations), inputs
        )
        return jnp.sum(inputs.weights * terms), (terms, named)

    def gradient(parameters: Parameters, inputs: Inputs) -> Any:
        leaves, (terms, named) = jax.grad(loss, has_aux=True)(parameters, inputs)
        vector, _ = ravel_pytree(leaves)
        columns = [
            value.reshape(len(terms), -1)
            for value in (terms, *(named[name] for name in estimator.quantities))
        ]
        return vector, jnp.sum(vector * vector), jnp.concatenate(columns, 1)

    return jitted(gradient)


@lru_cache(KEPT)
def log_prob_products(network: Network, head: Head) -> Callable[..., Parameters]:
    """Return the function from parameters, inputs and [R, N] rows to [R, ...] derivatives of each parameter."""

    def products(parameters: Parameters, inputs: Inputs, rows: jax.Array) -> Parameters:
        def log_prob(moved: Parameters) -> jax.Array:
            return quantities(head, ("log_prob",), network(moved, inputs.observations), inputs)[
                "log_prob"
            ]

        _, pull = jax.vjp(log_prob, parameters)
        return jax.vmap(pull)(rows)[0]

    return jitted(products)


@lru_cache(KEPT)
def fisher_product(network: Network, head: Head) -> Callable[..., Parameters]:
    """Return the function from parameters, inputs and a direction to the Fisher-vector product."""

    def product(parameters: Parameters, inputs: Inputs, direction: Parameters) -> Parameters:
        def coordinates(moved: Parameters) -> jax.Array:
            return fisher_coordinates(head, network(moved, inputs.observations), inputs)

        at, pull = jax.vjp(coordinates, parameters)
        # J^T u is linear in u, so its derivative in u is J. Forward mode would do, but a `custom_vjp` has none.
        _, transposed = jax.vjp(lambda u: pull(u)[0], jnp.zeros_like(at))
        (tangent,) = transposed(direction)
        return pull(fisher_metric(head, at, tangent, inputs))[0]

    return jitted(product)


@lru_cache(KEPT)
def update(spec: OptimizerSpec) -> Callable[..., tuple[Parameters, Parameters]]:
    """Return the function from parameters, flat gradient, flat slots and scalars to new parameters and slots."""

    def step(
        parameters: Parameters,
        gradient: jax.Array,
        slots: Parameters,
        scalars: tuple[jax.Array, ...],
    ) -> tuple[Parameters, Parameters]:
        vector, unravel = ravel_pytree(parameters)
        moved, changed = spec.update(xp, vector, gradient, slots, *scalars)
        return unravel(moved), changed

    return jitted(step)
