"""Statistics of groups of episodes, such as several answers to one prompt.

A batch numbers its groups in the extra `group`, [B] integers, one number throughout an episode; without it all episodes are one group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgcore.batch import Batch
from pgcore.errors import BatchError

__all__ = ["by_group", "episode_rewards", "group_of_episode"]

Array = NDArray[Any]


def group_of_episode(batch: Batch) -> Array:
    """Return [E] integer: the number of each episode's group, from the extra `group`.

    Raises:
        BatchError: the numbers are no integers, or change within an episode.
    """
    if "group" not in batch.extras:
        return np.zeros(batch.num_episodes, np.intp)
    group = batch.extras["group"]
    if group.dtype.kind not in "iu" or group.ndim != 1:
        raise BatchError(
            f"Batch.extras['group']: expected [B] integers, got {group.dtype} of shape {list(group.shape)}; number the groups"
        )
    first = group[batch.episode_starts]
    changed = group != first[batch.episode_of_step]
    if changed.any():
        step = int(changed.argmax())
        raise BatchError(
            f"Batch.extras['group']: expected one number throughout an episode, got another at step {step}; repeat the episode's own"
        )
    return first


def episode_rewards(batch: Batch, r_t: Array | None = None) -> Array:
    """Return [E] float64: the undiscounted sum of each episode's rewards, or of [B] other ones."""
    return np.add.reduceat(batch.rewards if r_t is None else r_t, batch.episode_starts)


def by_group(function: Callable[[Array], Array], x: Array, batch: Batch) -> Array:
    """Return [E]: a function of one group's entries, applied to each group's; 0 for episodes that are padding.

    Args:
        function: From [n] entries to [n] results.
        x: [E] float.
        batch: Which episodes are in which group.

    Raises:
        BatchError: see `group_of_episode`; or the function raises it, of a group that is then named.
    """
    if "group" not in batch.extras and batch.step_weights is None:
        return function(x)
    real = batch.episode_weights > 0
    group = np.where(real, group_of_episode(batch), -1)
    result = np.zeros_like(x)
    for number in np.unique(group[real]):
        own = real & (group == number)
        try:
            result[own] = function(x[own])
        except BatchError as error:
            raise BatchError(f"group {number}: {error}") from error
    return result
