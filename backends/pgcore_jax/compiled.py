"""What is compiled: one function for each network, head and estimator, kept for all policies that share them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp

from pgcore.autodiff import Inputs, Outputs
from pgcore.estimator import Estimator
from pgcore.heads import Head
from pgcore.optimizer import OptimizerSpec
from pgcore_jax.heads import quantities, surrogate_terms
from pgcore_jax.xp import xp

__all__ = ["differentiate", "fisher_product", "forward", "log_prob_products", "run", "sum_of_squares", "update"]

Parameters = dict[str, jax.Array]
Network = Callable[[Parameters, Any], Outputs]

# As many as a process that tries everything needs; what is dropped is compiled again.
KEPT = 1024


@jax.jit
def sum_of_squares(leaves: Parameters) -> jax.Array:
    """Return the sum of all squared entries."""
    return sum((jnp.sum(leaf * leaf) for leaf in leaves.values()), start=jnp.zeros(()))


@lru_cache(KEPT)
def forward(network: Network) -> Callable[..., Outputs]:
    """Return the function from parameters and observations to what the network says."""
    return jax.jit(network)


@lru_cache(KEPT)
def run(network: Network, head: Head, names: tuple[str, ...]) -> Callable[..., Parameters]:
    """Return the function from parameters and inputs to quantities by name."""

    def quantities_of(parameters: Parameters, inputs: Inputs) -> Parameters:
        return quantities(head, names, network(parameters, inputs.observations), inputs)

    return jax.jit(quantities_of)


@lru_cache(KEPT)
def differentiate(network: Network, head: Head, estimator: Estimator) -> Callable[..., Any]:
    """Return the function from parameters and inputs to leaves, sum of squares, terms and what the surrogate was given."""

    def loss(parameters: Parameters, inputs: Inputs) -> tuple[jax.Array, Any]:
        terms, named = surrogate_terms(head, estimator, network(parameters, inputs.observations), inputs)
        return jnp.sum(inputs.weights * terms), (terms, named)

    def gradient(parameters: Parameters, inputs: Inputs) -> Any:
        leaves, (terms, named) = jax.grad(loss, has_aux=True)(parameters, inputs)
        return leaves, sum_of_squares(leaves), terms, named

    return jax.jit(gradient)


@lru_cache(KEPT)
def log_prob_products(network: Network, head: Head) -> Callable[..., Parameters]:
    """Return the function from parameters, inputs and [R, N] rows to [R, ...] derivatives of each parameter."""

    def products(parameters: Parameters, inputs: Inputs, rows: jax.Array) -> Parameters:
        def log_prob(moved: Parameters) -> jax.Array:
            return quantities(head, ("log_prob",), network(moved, inputs.observations), inputs)["log_prob"]

        _, pull = jax.vjp(log_prob, parameters)
        return jax.vmap(pull)(rows)[0]

    return jax.jit(products)


@lru_cache(KEPT)
def fisher_product(network: Network, head: Head) -> Callable[..., Parameters]:
    """Return the function to the Hessian of KL(pi, pi) in its second argument, times a direction."""

    def product(parameters: Parameters, inputs: Inputs, direction: Parameters) -> Parameters:
        def kl(moved: Parameters) -> jax.Array:
            found = network(moved, inputs.observations)
            distribution = head.distribution(xp, found.outputs, found.head, inputs.action_mask)
            return jnp.sum(inputs.weights * head.kl(xp, jax.lax.stop_gradient(distribution), distribution))

        return jax.jvp(jax.grad(kl), (parameters,), (direction,))[1]

    return jax.jit(product)


@lru_cache(KEPT)
def update(spec: OptimizerSpec) -> Callable[..., tuple[Parameters, dict[str, Parameters]]]:
    """Return the function from parameters, leaves, slots and scalars to new parameters and slots."""

    def step(
        parameters: Parameters, leaves: Parameters, slots: dict[str, Parameters], scalars: tuple[jax.Array, ...]
    ) -> tuple[Parameters, dict[str, Parameters]]:
        moved: Parameters = {}
        changed: dict[str, Parameters] = {slot: {} for slot in slots}
        for name, parameter in parameters.items():
            own = {slot: values[name] for slot, values in slots.items()}
            moved[name], found = spec.update(xp, parameter, leaves[name], own, *scalars)
            for slot, value in found.items():
                changed[slot][name] = value
        return moved, changed

    return jax.jit(step)
