"""The steps of a rollout: [T, N] or [N, T] arrays, divided into episodes."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from pgcore.data.columns import Columns
from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import Array, is_host, read_only

__all__ = ["Grid"]


class Grid:
    """A rollout of N environments, their steps one environment after the other.

    Attributes:
        columns: The arguments.
        in_time: Whether the caller's arrays are [T, N], and not [N, T].
        resets: Whether the row after an episode's end is a reset, which is no step.
        shape: Of the caller's arrays.
        rewards: [N, T]; as the caller's on a device.
        terminated: [N, T] bool.
        done: [N, T] bool, terminated or truncated.
        keep: [N, T] bool, False in rows of resets.
    """

    def __init__(self, columns: Columns, *, in_time: bool, resets: bool) -> None:
        """Read the arrays that divide the steps into episodes.

        Raises:
            ShapeError, BatchError: see `Episodes.from_rollout`.
        """
        self.columns, self.in_time, self.resets = columns, in_time, resets
        rewards = columns.numbers("rewards")
        if rewards.ndim != 2:
            raise ShapeError(
                f"{columns.where} rewards: expected [{'T, N' if in_time else 'N, T'}] numbers, got "
                f"shape {list(rewards.shape)}; give one environment an axis of its own"
            )
        if rewards.size == 0:
            raise BatchError(
                f"{columns.where} rewards: expected at least 1 step, got shape "
                f"{list(rewards.shape)}; collect some steps first"
            )
        # Those on a device are not read.
        self.shape = rewards.shape
        self.rewards = self.by_environment(rewards) if is_host(rewards) else rewards
        flags = [columns.shaped(x, self.shape, boolean=True) for x in ("terminated", "truncated")]
        self.terminated, truncated = map(self.by_environment, flags)
        self.done = self.terminated | truncated
        self.keep = ~self._resets()
        if not self.keep.any():
            raise BatchError(
                f"{columns.where}: expected at least 1 step, got none but rows in which an "
                "environment was reset; collect more steps"
            )

    def by_environment(self, array: Array) -> Array:
        """Return [N, T, ...] of an array of the caller's."""
        return array.swapaxes(0, 1) if self.in_time else array

    def flat(self, array: Array) -> Array:
        """Return [B, ...] an array of the caller's shape in the order of steps."""
        if is_host(array):
            return self.by_environment(array)[self.keep]
        return array.reshape(-1, *array.shape[2:])[self.positions]

    def steps_of(self, name: str) -> Array:
        """Return [B, ...] an argument in the order of steps."""
        return self.flat(self.columns.shaped(name, self.shape))

    @cached_property
    def positions(self) -> Array:
        """[B] integer. The place of each step in an array of the caller's shape, in C order."""
        numbers = np.arange(self.rewards.size).reshape(self.shape)
        return read_only(self.by_environment(numbers)[self.keep])

    @cached_property
    def environments(self) -> Array:
        """[B] integer. The environment of each step."""
        return np.nonzero(self.keep)[0]

    @cached_property
    def times(self) -> Array:
        """[B] integer. The time of each step in its environment."""
        return np.nonzero(self.keep)[1]

    @cached_property
    def ends(self) -> Array:
        """[E] integer. The last step of each episode: an end, or the environment's last step."""
        last = np.append(np.diff(self.environments) > 0, [True])
        return np.flatnonzero(self.done[self.keep] | last)

    @property
    def lengths(self) -> Array:
        """[E] integer. The steps of each episode."""
        return np.diff(self.ends, prepend=-1)

    @cached_property
    def ended(self) -> Array:
        """[E] bool, True for terminated episodes."""
        return self.terminated[self.keep][self.ends]

    def place(self, step: int) -> str:
        """Return the place of a step, for errors."""
        return f"step {self.times[step]} of environment {self.environments[step]}"

    def _resets(self) -> Array:
        """Return [N, T] bool, True in rows of resets, or raise BatchError where one cannot be."""
        reset, columns = np.zeros(self.done.shape, np.bool_), self.columns
        if self.resets:
            reset[:, 1:] = self.done[:, :-1]
        if "previous_done" in columns.names:
            if not self.resets:
                raise BatchError(
                    f"{columns.where} previous_done: expected none where no row is a reset, got an "
                    "array; leave it out, or choose autoreset='next_step'"
                )
            reset[:, 0] = columns.shaped("previous_done", (len(reset),), boolean=True)
        paid = self.rewards != 0 if is_host(self.rewards) else False
        ends, paid = reset & self.done, reset & paid
        if (ends | paid).any():
            environment, time = np.argwhere(ends | paid)[0]
            got = "an end" if ends[environment, time] else "another reward"
            raise BatchError(
                f"{columns.where}: expected reward 0 and no end in the row after an episode's end, a "
                f"reset under autoreset='next_step', got {got} at step {time} of environment "
                f"{environment}; name the mode of the environments"
            )
        return reset
