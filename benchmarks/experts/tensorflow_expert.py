"""PPO's gradient as a good TensorFlow user writes it: a `GradientTape` inside one `tf.function`."""

from __future__ import annotations

import math
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
) -> Callable[..., Result]:
    """Return a function that computes the gradient; the tensors are made here.

    It takes the numbers of a minibatch's steps, a tensor; without them all steps count.

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
        log_std = variables.get("head.log_std")
        log_prob, entropy = terms(mlp("network", observations), actions, log_std)
        ratio = tf.exp(log_prob - old_log_prob)
        surrogate = tf.minimum(
            ratio * advantage, tf.clip_by_value(ratio, 1 - CLIP, 1 + CLIP) * advantage
        )
        error = tf.squeeze(mlp("critic", observations), 1) - return_
        return tf.reduce_mean(
            VALUE_COEFFICIENT * 0.5 * error**2 - surrogate - ENTROPY_COEFFICIENT * entropy
        )

    # Variables are captured; the batch is an argument, so that a new one is not traced anew.
    @tf.function(jit_compile=compiled)
    def gradient_of_loss(steps: Tensor, *batch: Tensor) -> Result:
        if steps is not None:
            batch = tuple(tf.gather(x, steps) for x in batch)
        with tf.GradientTape() as tape:
            result = loss(*batch)
        return tape.gradient(result, variables)

    def gradient(steps: Tensor = None) -> Result:
        return gradient_of_loss(steps, *tensors)

    return gradient


def terms(outputs: Tensor, actions: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    """Return log-probability and entropy: of logits, or of a Gaussian's means with a `log_std`."""
    if log_std is None:
        log_probs = tf.nn.log_softmax(outputs)
        log_prob = tf.gather(log_probs, actions, batch_dims=1)
        return log_prob, -tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=1)
    standard = (actions - outputs) * tf.exp(-log_std)
    constant = tf.reduce_sum(log_std + 0.5 * math.log(2 * math.pi))
    log_prob = -0.5 * tf.reduce_sum(standard**2, axis=1) - constant
    return log_prob, tf.reduce_sum(log_std + 0.5 * math.log(2 * math.pi * math.e))


def native(array: np.ndarray) -> Tensor:
    """Return an array of the framework."""
    return tf.constant(array)


def wait(result: Result) -> None:
    """Wait for a gradient; the host has it at once."""


def to_numpy(result: Result) -> dict[str, np.ndarray]:
    """Return the gradient by canonical name."""
    return {name: value.numpy() for name, value in result.items()}
