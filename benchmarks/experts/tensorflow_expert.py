"""PPO's gradient as a good TensorFlow user writes it: a `GradientTape` inside one `tf.function`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

CLIP, VALUE_COEFFICIENT, ENTROPY_COEFFICIENT = 0.2, 0.5, 0.01

# TensorFlow ships no types.
Tensor = Any
Result = dict[str, Tensor]


def make(
    parameters: dict[str, np.ndarray], data: dict[str, np.ndarray], *, compiled: bool
) -> Callable[[], Result]:
    """Return a function that computes the gradient; the tensors are made here.

    Args:
        parameters: By canonical name; weights are [in, out].
        data: observations, actions, old_log_prob, advantage and return_ of each step.
        compiled: Have XLA compile the function.
    """
    variables = {
        name: tf.Variable(tf.constant(value), name=name) for name, value in parameters.items()
    }
    tensors = [
        tf.constant(data[name])
        for name in ("observations", "actions", "old_log_prob", "advantage", "return_")
    ]

    def mlp(part: str, x: Tensor) -> Tensor:
        last = sum(name.startswith(part) for name in variables) // 2 - 1
        for number in range(last + 1):
            x = x @ variables[f"{part}.{number}.weight"] + variables[f"{part}.{number}.bias"]
            x = tf.tanh(x) if number < last else x
        return x

    def loss(
        observations: Tensor,
        actions: Tensor,
        old_log_prob: Tensor,
        advantage: Tensor,
        return_: Tensor,
    ) -> Tensor:
        log_probs = tf.nn.log_softmax(mlp("network", observations))
        log_prob = tf.gather(log_probs, actions, batch_dims=1)
        ratio = tf.exp(log_prob - old_log_prob)
        surrogate = tf.minimum(
            ratio * advantage, tf.clip_by_value(ratio, 1 - CLIP, 1 + CLIP) * advantage
        )
        entropy = -tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=1)
        error = tf.squeeze(mlp("critic", observations), 1) - return_
        return tf.reduce_mean(
            VALUE_COEFFICIENT * 0.5 * error**2 - surrogate - ENTROPY_COEFFICIENT * entropy
        )

    # Variables are captured; the batch is an argument, so that a new one is not traced anew.
    @tf.function(jit_compile=compiled)
    def gradient_of_loss(*batch: Tensor) -> Result:
        with tf.GradientTape() as tape:
            result = loss(*batch)
        return tape.gradient(result, variables)

    def gradient() -> Result:
        return gradient_of_loss(*tensors)

    return gradient


def to_numpy(result: Result) -> dict[str, np.ndarray]:
    """Return the gradient by canonical name."""
    return {name: value.numpy() for name, value in result.items()}
