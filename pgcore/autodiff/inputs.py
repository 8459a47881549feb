"""The arrays that a policy computes from and the network's outputs, padded to a few sizes where shapes are compiled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pgcore.validation.arrays import Array
from pgcore.xp.namespace import Native

__all__ = ["Inputs", "Outputs", "episode_chunks", "padded", "padded_size", "repeat_last"]

# Scores are computed for at most this many episodes and about this many steps at a time.
EPISODES, STEPS = 64, 1024


class Inputs(NamedTuple):
    """What a policy computes from, NumPy or native, `N` steps: those of a batch and, where shapes are compiled, padding.

    Attributes:
        observations: [N, ...] as the network takes them.
        actions: [N] integer, or [N, n] of the policy's dtype.
        action_mask: [N, A] bool or None.
        signals: [N, ...] by name.
        weights: [N] weight of each step's term; 0 for padding.
    """

    observations: Native
    actions: Native
    action_mask: Native
    signals: dict[str, Native]
    weights: Native


class Outputs(NamedTuple):
    """What a network says of `N` steps.

    Attributes:
        outputs: [N, outputs] the head's natural parameters.
        values: [N] the critic's values, [N, A] where it values actions, or None.
        head: The head's own parameters by name.
    """

    outputs: Native
    values: Native
    head: dict[str, Native]


def episode_chunks(lengths: Array) -> Iterator[slice]:
    """Yield slices of episodes, each of at most `EPISODES`, and of at most `STEPS` steps unless one alone has more."""
    start = steps = 0
    for episode, length in enumerate(lengths.tolist()):
        if episode > start and (episode - start == EPISODES or steps + length > STEPS):
            yield slice(start, episode)
            start, steps = episode, 0
        steps += length
    yield slice(start, len(lengths))


def padded_size(steps: int) -> int:
    """Return the smallest of 1, 2, 3, 4, 6, 8, 12, 16, ... that is at least `steps`: two sizes for each doubling."""
    power = 1 << (steps - 1).bit_length()
    return power * 3 // 4 if steps <= power * 3 // 4 and power >= 4 else power


def padded(inputs: Inputs) -> Inputs:
    """Return the inputs with their last step repeated, at weight 0, up to a `padded_size`."""
    steps = len(inputs.weights)
    extra = padded_size(steps) - steps
    if extra == 0:
        return inputs
    return Inputs(
        repeat_last(inputs.observations, extra),
        repeat_last(inputs.actions, extra),
        None if inputs.action_mask is None else repeat_last(inputs.action_mask, extra),
        # Each step of padding is an episode of its own: a product of many ratios could overflow, and weight 0 would not take that away.
        {
            name: np.append(value, value[-1] + 1 + np.arange(extra))
            if name == "episode"
            else repeat_last(value, extra)
            for name, value in inputs.signals.items()
        },
        np.append(inputs.weights, np.zeros(extra, inputs.weights.dtype)),
    )


def repeat_last(array: Array, times: int) -> Array:
    """Return the array with its last row repeated."""
    return array if times == 0 else np.concatenate([array, np.repeat(array[-1:], times, axis=0)])
