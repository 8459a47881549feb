"""A policy's input arrays and its network's outputs, padded to a few sizes for compiled code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import numpy as np

from pgcore.validation.arrays import Array
from pgcore.xp.namespace import Native

__all__ = ["Inputs", "Outputs", "arrays_in", "each", "episode_chunks", "padded"]
__all__ += ["padded_signal", "padded_size", "padded_weights", "repeat_last"]

# Scores are computed for at most this many episodes and about this many steps at a time, so that the
# [episodes, steps] matrix of weights stays small.
EPISODES, STEPS = 64, 1024


class Inputs(NamedTuple):
    """A policy's inputs, NumPy or native: `N` steps of a batch and, for compiled code, of padding."""

    observations: Native  # [N, ...] as the network takes them, or a dict of such
    actions: Native  # [N] integer, or [N, n] of the policy's dtype
    action_mask: Native  # [N, A] bool or None
    signals: dict[str, Native]  # [N, ...] by name
    weights: Native  # [N] weight of each step's term; 0 for padding


class Outputs(NamedTuple):
    """A network's outputs at `N` steps."""

    outputs: Native  # [N, outputs] the head's natural parameters
    values: Native  # [N] the critic's values, [N, A] of an action-value critic, or None
    head: dict[str, Native]  # the head's own parameters by name


def episode_chunks(lengths: Array) -> Iterator[slice]:
    """Yield slices of at most `EPISODES` episodes, and of at most `STEPS` steps unless one has more."""
    start = steps = 0
    for episode, length in enumerate(lengths.tolist()):
        if episode > start and (episode - start == EPISODES or steps + length > STEPS):
            yield slice(start, episode)
            start, steps = episode, 0
        steps += length
    yield slice(start, len(lengths))


def padded_size(steps: int) -> int:
    """Return the least of 1, 2, 3, 4, 6, 8, 12, 16, ... that is at least `steps`: two a doubling."""
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
        {name: padded_signal(name, value, extra) for name, value in inputs.signals.items()},
        padded_weights(inputs.weights, extra),
    )


def padded_signal(name: str, value: Array, extra: int) -> Array:
    """Return a signal with its last row repeated `extra` times, or that many episodes more."""
    # Each step of padding is an episode of its own: a product of many ratios could overflow, which
    # weight 0 does not undo.
    if name == "episode" and extra:
        return np.append(value, value[-1] + 1 + np.arange(extra))
    return repeat_last(value, extra)


def padded_weights(weights: Array, extra: int) -> Array:
    """Return weights with `extra` zeros after them."""
    return np.append(weights, np.zeros(extra, weights.dtype)) if extra else weights


def each(function: Callable[[Any], Any], observations: Any) -> Any:
    """Return the function's result for observations, or a dict of its results for arrays by name."""
    if isinstance(observations, dict):
        named = cast("dict[str, Any]", observations)
        return {name: function(value) for name, value in named.items()}
    return function(observations)


def arrays_in(observations: Any) -> list[Any]:
    """Return the arrays of observations, one or several."""
    if isinstance(observations, dict):
        return [*cast("dict[str, Any]", observations).values()]
    return [observations]


def repeat_last(array: Any, times: int) -> Any:
    """Return an array, or each of a dict, with its last row repeated a number of times more."""
    if times == 0:
        return array
    return each(lambda x: np.concatenate([x, np.repeat(x[-1:], times, axis=0)]), array)
