"""PPO's gradient as a good JAX user writes it: `jax.jit(jax.grad(loss))` over a pytree."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

CLIP, VALUE_COEFFICIENT, ENTROPY_COEFFICIENT = 0.2, 0.5, 0.01

Layers = list[tuple[jax.Array, jax.Array]]
Tree = dict[str, Layers]


def make(
    parameters: dict[str, np.ndarray], data: dict[str, np.ndarray], *, compiled: bool
) -> Callable[[], Tree]:
    """Return a function that computes the gradient; the arrays are made here.

    Args:
        parameters: By canonical name; weights are [in, out].
        data: observations, actions, old_log_prob, advantage and return_ of each step.
        compiled: Always so here.
    """
    # Parameters and data are on the device before the clock starts.
    assert compiled
    tree = {part: layers(parameters, part) for part in ("network", "critic")}
    batch = {name: jnp.asarray(value) for name, value in data.items()}
    function = jax.jit(jax.grad(loss))

    def gradient() -> Tree:
        return jax.block_until_ready(function(tree, batch))

    return gradient


def loss(tree: Tree, batch: dict[str, jax.Array]) -> jax.Array:
    """Return PPO's loss."""
    log_probs = jax.nn.log_softmax(mlp(tree["network"], batch["observations"]))
    # One log-softmax serves both log-probability and entropy.
    log_prob = jnp.take_along_axis(log_probs, batch["actions"][:, None], axis=1)[:, 0]
    ratio = jnp.exp(log_prob - batch["old_log_prob"])
    advantage = batch["advantage"]
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - CLIP, 1 + CLIP) * advantage)
    entropy = -jnp.sum(jnp.exp(log_probs) * log_probs, axis=1)
    error = mlp(tree["critic"], batch["observations"])[:, 0] - batch["return_"]
    return jnp.mean(VALUE_COEFFICIENT * 0.5 * error**2 - surrogate - ENTROPY_COEFFICIENT * entropy)


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


def to_numpy(result: Tree) -> dict[str, np.ndarray]:
    """Return the gradient by canonical name."""
    return {
        f"{part}.{number}.{kind}": np.asarray(value)
        for part, weights in result.items()
        for number, layer in enumerate(weights)
        for kind, value in zip(("weight", "bias"), layer, strict=True)
    }
