"""Compiled functions of networks, heads and estimators."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from pgcore.autodiff.gathering import Gather, minibatch
from pgcore.autodiff.gathering import finalised as finalised_by
from pgcore.autodiff.inputs import Inputs, Outputs
from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore_jax.arrays import JaxArrays
from pgcore_jax.heads import fisher_coordinates, fisher_metric, quantities, surrogate_terms
from pgcore_jax.parameters import KEPT, jitted
from pgcore_jax.xp import xp

__all__ = ["differentiate", "finalised", "finalised_minibatch", "fisher_product", "forward"]
__all__ += ["gathered", "log_prob_products", "run", "update"]

Parameters = dict[str, jax.Array]
Network = Callable[[Parameters, Any], Outputs]


# The caches hash heads, estimators and a spec's networks by value, since they are frozen data.
@lru_cache(KEPT)
def forward(network: Network) -> Callable[..., Outputs]:
    """Return the function from parameters and observations to the network's results."""
    return jitted(network)


@lru_cache(KEPT)
def run(network: Network, head: Head, names: tuple[str, ...]) -> Callable[..., Parameters]:
    """Return the function from parameters and inputs to quantities by name."""

    def quantities_of(parameters: Parameters, inputs: Inputs) -> Parameters:
        return quantities(head, names, network(parameters, inputs.observations), inputs)

    return jitted(quantities_of)


@lru_cache(KEPT)
def differentiate(network: Network, head: Head, estimator: Estimator) -> Callable[..., Any]:
    """Return the function from parameters and inputs to a gradient.

    Its results are the flat gradient, the sum of its squares, and [N, ...] terms and quantities in
    columns.
    """

    def loss(parameters: Parameters, inputs: Inputs) -> tuple[jax.Array, Any]:
        outputs = network(parameters, inputs.observations)
        terms, used = surrogate_terms(head, estimator, outputs, inputs)
        return jnp.sum(inputs.weights * terms), (terms, used)

    def gradient(parameters: Parameters, inputs: Inputs) -> Any:
        leaves, (terms, used) = jax.grad(loss, has_aux=True)(parameters, inputs)
        vector, _ = ravel_pytree(leaves)
        # Few results, since each array that leaves compiled code takes its time.
        values = (terms, *(used[name] for name in estimator.quantities))
        columns = [value.reshape(len(terms), -1) for value in values]
        return vector, jnp.sum(vector * vector), jnp.concatenate(columns, 1)

    return jitted(gradient)


@jitted
def gathered(whole: Inputs, gather: Gather) -> Inputs:
    """See `pgcore.autodiff.gathering.minibatch`; `signal_rows` of () are the batch's rows."""

    def take(array: jax.Array, rows: jax.Array) -> jax.Array:
        # Rows are within bounds: `Batch` has checked them.
        return jnp.take(array, rows, axis=0, mode="clip")

    def real(weights: jax.Array, steps: Any) -> jax.Array:
        return jnp.arange(len(weights)) < steps

    if isinstance(gather.signal_rows, tuple):
        gather = gather._replace(signal_rows=gather.rows)
    rows = whole.weights if gather.signal_rows is None else gather.signal_rows
    standards: dict[str, tuple[Any, ...]] = {}
    for name, (first, mean, divisor) in gather.standards.items():
        # XLA would multiply by a number's reciprocal, which rounds twice.
        divisors = jax.lax.optimization_barrier(jnp.full(len(rows), divisor))
        standards[name] = (first, mean, divisors)
    return minibatch(xp, take, real, whole, gather._replace(standards=standards))


@lru_cache(KEPT)
def finalised_minibatch(estimator: Estimator) -> Callable[..., Inputs]:
    """Return the function from whole arrays to a minibatch with finalised signals."""

    def minibatch_of(whole: Inputs, gather: Gather, real: jax.Array | None) -> Inputs:
        inputs = gathered(whole, gather)
        return inputs._replace(signals=finalised_by(JaxArrays(), estimator, inputs.signals, real))

    return jitted(minibatch_of)


@lru_cache(KEPT)
def finalised(estimator: Estimator) -> Callable[..., Parameters]:
    """Return the function from signals by name, and the steps that count, to finalised signals."""

    def signals_of(signals: Parameters, real: jax.Array | None) -> Parameters:
        return finalised_by(JaxArrays(), estimator, signals, real)

    return jitted(signals_of)


@lru_cache(KEPT)
def log_prob_products(network: Network, head: Head) -> Callable[..., Parameters]:
    """Return the function from parameters, inputs and [R, N] rows to [R, ...] derivatives."""

    def products(parameters: Parameters, inputs: Inputs, rows: jax.Array) -> Parameters:
        def log_prob(at: Parameters) -> jax.Array:
            outputs = network(at, inputs.observations)
            return quantities(head, ("log_prob",), outputs, inputs)["log_prob"]

        # One forward pass serves all rows.
        _, pull = jax.vjp(log_prob, parameters)
        return jax.vmap(pull)(rows)[0]

    return jitted(products)


@lru_cache(KEPT)
def fisher_product(network: Network, head: Head) -> Callable[..., Parameters]:
    """Return the function from parameters, inputs and a direction to the Fisher-vector product."""

    def product(parameters: Parameters, inputs: Inputs, direction: Parameters) -> Parameters:
        def coordinates(at: Parameters) -> jax.Array:
            return fisher_coordinates(head, network(at, inputs.observations), inputs)

        values, pull = jax.vjp(coordinates, parameters)
        # J^T u is linear in u, so its derivative in u is J. Forward mode would do, but a
        # `custom_vjp` has none.
        _, transposed = jax.vjp(lambda u: pull(u)[0], jnp.zeros_like(values))
        (tangent,) = transposed(direction)
        return pull(fisher_metric(head, values, tangent, inputs))[0]

    return jitted(product)


@lru_cache(KEPT)
def update(
    spec: OptimizerSpec, *, guarded: bool = False
) -> Callable[..., tuple[Parameters, Parameters, jax.Array]]:
    """Return the function of one step to new parameters and slots, and whether they are finite.

    It takes parameters, the flat gradient, flat slots and the step's scalars.

    Args:
        spec: The formula.
        guarded: Whether the device skips a step of a gradient, or to results, that are not finite.
    """

    def step(
        parameters: Parameters,
        gradient: jax.Array,
        slots: Parameters,
        scalars: tuple[jax.Array, ...],
    ) -> tuple[Parameters, Parameters, jax.Array]:
        # Elementwise formulas run on one vector instead of an array for each parameter.
        vector, unravel = ravel_pytree(parameters)
        moved, changed = spec.updated(xp, vector, gradient, slots, *scalars)
        finite = jnp.isfinite(jnp.stack([moved, *changed.values()])).all()
        if guarded:
            finite &= jnp.isfinite(jnp.vdot(gradient, gradient))
            moved = jnp.where(finite, moved, vector)
            for slot, value in changed.items():
                changed[slot] = jnp.where(finite, value, slots[slot])
        return unravel(moved), changed, finite

    return jitted(step)
