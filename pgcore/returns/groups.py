"""Statistics of groups of episodes, such as several answers to one prompt.

A batch numbers its groups in the extra `group`, [B] integers, one number throughout an episode.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pgcore.data.device_array import place_of
from pgcore.data.episodes import Episodes
from pgcore.errors import BatchError, NonFiniteError
from pgcore.validation.arrays import Array, check_rows

__all__ = ["GROUPS", "by_group", "episode_rewards", "group_of_episode", "group_ranks"]
__all__ += ["is_one_group", "unmasked_episodes"]

# The values of `group`, here and as a field of an estimator.
GROUPS = ("extra", "all")


def group_of_episode(batch: Episodes, group: str = "extra") -> Array:
    """Return [E] integer: the number of each episode's group.

    Args:
        batch: The episodes.
        group: "extra" for the numbers in the batch's extra `group`, "all" for one group of all.

    Raises:
        BatchError: no such extra, or its numbers are no integers or change within an episode.
    """
    if group == "all":
        return np.zeros(batch.num_episodes, np.intp)
    where, numbers = f"{type(batch).__name__}.extras['group']", batch.extras.get("group")
    if numbers is None or numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        got = "none" if numbers is None else f"{numbers.dtype} of shape {list(numbers.shape)}"
        raise BatchError(
            f"{where}: expected [B] integers, got {got}; number the groups of episodes to compare, "
            "or set the estimator's group='all' to compare all"
        )
    first = numbers[batch.episode_starts]
    rule, same = "one number throughout an episode", numbers == first[batch.episode_of_step]
    check_rows(where, rule, same, "another", "repeat the episode's own")
    return first


def is_one_group(batch: Episodes, group: str = "extra") -> bool:
    """Whether all episodes, padding included, are one group; reads the steps' numbers alone.

    Args:
        batch: The episodes.
        group: See `group_of_episode`.
    """
    numbers = batch.extras.get("group")
    if group == "all" or numbers is None or numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        return group == "all"
    # One number broadcast to all, else by bytes, which compare fastest.
    return not numbers.strides[0] or numbers.tobytes() == numbers[:1].tobytes() * len(numbers)


def group_ranks(batch: Episodes, group: str = "extra") -> Array:
    """Return [E] integer: the rank of each episode's group number among all groups', from 0.

    Args:
        batch: The episodes.
        group: See `group_of_episode`.

    Raises:
        BatchError: see `group_of_episode`.

    Example:
        >>> batch = pg.Batch(observations=np.eye(2), actions=[0, 1], rewards=[3.0, 5.0],
        ...     episode_lengths=[1, 1], terminated=[True, True], extras={"group": [7, 4]})
        >>> group_ranks(batch).tolist()
        [1, 0]
    """
    if is_one_group(batch, group):
        return np.zeros(batch.num_episodes, np.intp)
    return np.unique(group_of_episode(batch, group), return_inverse=True)[1].reshape(-1)


def episode_rewards(batch: Episodes, r_t: Array | None = None) -> Array:
    """Return [E] float64: the undiscounted sum of each episode's rewards.

    Args:
        batch: The episodes.
        r_t: [B] float64 or None. Rewards in place of the batch's.
    """
    return np.add.reduceat(batch.rewards if r_t is None else r_t, batch.episode_starts)


def unmasked_episodes(batch: Episodes) -> Array:
    """Return [E] bool: whether any step of an episode counts in the loss.

    Args:
        batch: The episodes, with the extra `loss_mask`, [B] bool, False where a step does not count.
    """
    return np.logical_or.reduceat(batch.extras["loss_mask"], batch.episode_starts)


def by_group(
    function: Callable[..., Array],
    x: Array,
    batch: Episodes,
    group: str = "extra",
    *further: Array,
    members: Array | None = None,
) -> Array:
    """Return [E]: a function of each group's entries; 0 for episodes that are padding.

    Of an array on a device the [E] entries are read, for groups of different sizes are a loop.

    Args:
        function: From [n] entries of one group to [n] results.
        x: [E] float.
        batch: The episodes.
        group: See `group_of_episode`.
        further: [E] each. Further arguments of the function, such as the episodes' lengths.
        members: [E] bool or None. The episodes that are in a group; others have 0, as padding has.

    Raises:
        BatchError, NonFiniteError: see `group_of_episode`; the function's own name the group.

    Example:
        >>> batch = pg.Batch(
        ...     observations=np.zeros((3, 1)), actions=[0, 0, 0], rewards=[1.0, 3.0, 5.0],
        ...     episode_lengths=[1, 1, 1], terminated=[True] * 3, extras={"group": [0, 0, 1]})
        >>> by_group(lambda x: x - x.mean(), batch.rewards, batch).tolist()
        [-1.0, 1.0, 0.0]
    """
    if (device := place_of(x)) is not None:
        numbers = np.asarray(x, np.float64)
        result = by_group(function, numbers, batch, group, *further, members=members)
        return device.array(device.native(result, "f"))
    if batch.step_weights is None and members is None and is_one_group(batch, group):
        return function(x, *further)
    numbers = group_of_episode(batch, group)
    real = batch.episode_weights > 0
    if members is not None:
        real = real & members
    result = np.zeros_like(x)
    for number in np.unique(numbers[real]):
        rows = real & (numbers == number)
        try:
            result[rows] = function(x[rows], *(y[rows] for y in further))
        except (BatchError, NonFiniteError) as error:
            raise type(error)(f"group {number}: {error}") from error
    return result
