"""PPO's gradient as a good JAX user writes it: `jax.jit(jax.grad(loss))` over a pytree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

CLIP, VALUE_COEFFICIENT, ENTROPY_COEFFICIENT = 0.2, 0.5, 0.01

Layers = list[tuple[jax.Array, jax.Array]]
Tree = dict[str, Any]


def make(
    parameters: dict[str, np.ndarray], data: dict[str, np.ndarray], *, compiled: bool
) -> Callable[..., Tree]:
    """Return a function that computes the gradient; the arrays are made here.

    It takes the numbers of a minibatch's steps, an array; without them all steps count.

    Args:
        parameters: By canonical name; weights are [in, out].
        data: observations, actions, old_log_prob, advantage and return_ of each step.
        compiled: Always so here.
    """
    # Parameters and data are on the device before the clock starts.
    assert compiled
    tree: Tree = {part: layers(parameters, part) for part in ("network", "critic")}
    if "head.log_std" in parameters:
        tree["log_std"] = jnp.asarray(parameters["head.log_std"])
    batch = {name: jnp.asarray(value) for name, value in data.items()}
    function = jax.jit(jax.grad(loss))

    def gradient(steps: jax.Array | None = None) -> Tree:
        return function(tree, batch, steps)

    return gradient


def native(array: np.ndarray) -> jax.Array:
    """Return an array of the framework."""
    return jnp.asarray(array)


def loss(tree: Tree, whole: dict[str, jax.Array], steps: jax.Array | None) -> jax.Array:
    """Return PPO's loss of some steps; None for all of them."""
    batch = whole if steps is None else {name: x[steps] for name, x in whole.items()}
    outputs = mlp(tree["network"], batch["observations"])
    log_prob, entropy = terms(outputs, batch["actions"], tree.get("log_std"))
    ratio = jnp.exp(log_prob - batch["old_log_prob"])
    advantage = batch["advantage"]
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
    error = mlp(tree["critic"], batch["observations"])[:, 0] - batch["return_"]
    return jnp.mean(VALUE_COEFFICIENT * 0.5 * error**2 - surrogate - ENTROPY_COEFFICIENT * entropy)


def terms(
    outputs: jax.Array, actions: jax.Array, log_std: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """Return log-probability and entropy: of logits, or of a Gaussian's means with a `log_std`."""
    if log_std is None:
        # One log-softmax serves both.
        log_probs = jax.nn.log_softmax(outputs)
        log_prob = jnp.take_along_axis(log_probs, actions[:, None], axis=1)[:, 0]
        return log_prob, -jnp.sum(jnp.exp(log_probs) * log_probs, axis=1)
    standard = (actions - outputs) * jnp.exp(-log_std)
    log_prob = -0.5 * jnp.sum(standard**2, 1) - jnp.sum(log_std + 0.5 * math.log(2 * math.pi))
    return log_prob, jnp.sum(log_std + 0.5 * math.log(2 * math.pi * math.e))


def mlp(weights: Layers, x: jax.Array) -> jax.Array:
    """Return a tanh network's output."""
    for weight, bias in weights[:-1]:
        x = jnp.tanh(x @ weight + bias)
    weight, bias = weights[-1]
    return x @ weight + bias


def layers(parameters: dict[str, np.ndarray], part: str) -> Layers:
    """Return one part's weights and biases."""
    return [
        (jnp.asarray(value), jnp.asarray(parameters[name.replace("weight", "bias")]))
        for name, value in parameters.items()
        if name.startswith(part) and name.endswith("weight")
    ]


def wait(result: Tree) -> None:
    """Wait for a gradient."""
    jax.block_until_ready(result)


def to_numpy(result: Tree) -> dict[str, np.ndarray]:
    """Return the gradient by canonical name."""
    named = {
        f"{part}.{number}.{kind}": np.asarray(value)
        for part in ("network", "critic")
        for number, layer in enumerate(result[part])
        for kind, value in zip(("weight", "bias"), layer, strict=True)
    }
    if "log_std" in result:
        named["head.log_std"] = np.asarray(result["log_std"])
    return named
