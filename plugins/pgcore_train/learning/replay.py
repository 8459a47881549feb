"""A replay buffer: the last steps of a run in a ring, drawn uniformly as batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import BatchError, FileError, ShapeError
from pgcore.validation.arrays import Array, read_only
from pgcore.validation.fields import count
from pgcore.validation.observations import by_name, owned_observations

__all__ = ["Replay"]

# Names of arrays in a checkpoint beside those of a batch's fields.
POSITION = "position"
NEXT_MASK = "next_action_mask"
DISCOUNT = "discount"
# Between the name of an array and that of its part, of observations by name.
PART = "/"
# Arrays that some environments lack.
MASKS = frozenset(("action_mask", NEXT_MASK))


class Replay:
    """A ring of transitions: in a full one a new step replaces the oldest.

    The first batch decides the widths of its arrays.

    Attributes:
        capacity: Largest number of steps.
        size: Number of steps in it.
    """

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Raises:
            SpecError: a capacity below 1.
        """
        self.capacity = count("Replay.capacity", capacity)
        self.size = 0
        self._position = 0  # the next step's place
        self._rings: dict[str, Array] = {}
        # Size, position, and the rows before the last batch with their places.
        self._before: tuple[int, int, Array, dict[str, Array]] | None = None

    def add(self, batch: Batch) -> None:
        """Take in a batch's steps, in their order; beyond the capacity the last ones stay.

        Raises:
            BatchError: the batch has no log_probs, masks actions unlike those before, or has a
                truncated episode without final observations.
            ShapeError: its rows are not as wide as earlier ones.
        """
        if batch.log_probs is None:
            raise BatchError(
                "Replay.add: expected log_probs, got none; pass what `Policy.act` returned"
            )
        rows = transitions(batch)
        if not self._rings:
            self._rings = {name: self._ring(values) for name, values in rows.items()}
        self._check_widths(rows)

        # Places are counted over all steps: the ring is the same for every split into batches.
        stay = min(batch.num_steps, self.capacity)
        numbers = self._position + np.arange(batch.num_steps - stay, batch.num_steps)
        places = numbers % self.capacity
        before = {name: self._rings[name][places] for name in rows}
        self._before = self.size, self._position, places, before
        for name, values in rows.items():
            self._rings[name][places] = values[-stay:]
        self._position = (self._position + batch.num_steps) % self.capacity
        self.size = min(self.size + batch.num_steps, self.capacity)

    def undo(self) -> None:
        """Take the last batch out again, and put back the rows in its place; once after each `add`."""
        if self._before is None:
            return
        self.size, self._position, places, before = self._before
        self._before = None
        for name, values in before.items():
            self._rings[name][places] = values

    def sample(self, steps: int, rng: np.random.Generator) -> Batch:
        """Return steps drawn uniformly with replacement, as episodes of one step each.

        A step that did not end in a terminal state is bootstrapped from the next observation.

        Args:
            steps: At least 1.
            rng: Source of the choice.

        Raises:
            BatchError: the buffer is empty, or steps is below 1.
        """
        count("Replay.sample", steps, BatchError)
        if self.size == 0:
            raise BatchError(
                "Replay.sample: expected steps to draw from, got none; add a batch first"
            )
        # Read-only, so that the batch takes the arrays without another copy.
        drawn = rng.integers(0, self.size, steps)
        rows: dict[str, Any] = {name: read_only(ring[drawn]) for name, ring in self._rings.items()}
        extras = {NEXT_MASK: rows.pop(NEXT_MASK)} if NEXT_MASK in rows else {}
        return Batch(
            final_observations=rows.pop("next_observations"),
            episode_lengths=read_only(np.ones(steps, np.intp)),
            extras=extras,
            **rows,
        )

    def state(self) -> dict[str, Array]:
        """Return the arrays that `load` takes: the filled rows, and the next step's place."""
        state = {POSITION: np.array([self._position])}
        for name, ring in self._rings.items():
            # Observations by name are one structured array, which no file holds.
            for part, rows in by_name(ring[: self.size]).items():
                state[f"{name}{PART}{part}" if part else name] = rows.copy()
        return state

    def load(self, state: Mapping[str, Array]) -> None:
        """Continue from a state that `state` returned.

        Raises:
            FileError: the state is of another capacity.
        """
        position, size = int(state[POSITION][0]), len(state["rewards"]) if "rewards" in state else 0
        # A ring that is not full continues at its end; a full one has `capacity` rows.
        if size > self.capacity or (size < self.capacity and position != size):
            raise FileError(
                f"checkpoint: expected a replay buffer of capacity {self.capacity}, got one of "
                f"another with {size} steps; leave replay.capacity as it was"
            )
        self._rings = {}
        for name, rows in joined(state).items():
            self._rings[name] = self._ring(rows)
            self._rings[name][:size] = rows
        self._position, self.size = position, size

    def _ring(self, rows: Array) -> Array:
        """Return zeros for `capacity` rows of this kind."""
        return np.zeros((self.capacity, *rows.shape[1:]), rows.dtype)

    def _check_widths(self, rows: Mapping[str, Array]) -> None:
        if (DISCOUNT in rows) != (DISCOUNT in self._rings):
            raise BatchError(
                "Replay.add: expected Batch.discount in all batches or in none, got it in some; "
                "pass ones where nothing is discounted"
            )
        if rows.keys() != self._rings.keys():
            raise BatchError(
                "Replay.add: expected action masks in all batches or in none, got "
                f"{mask_names(rows)} after {mask_names(self._rings)}; "
                "mask with True where all are possible"
            )
        for name, values in rows.items():
            ring = self._rings[name]
            if values.shape[1:] != ring.shape[1:]:
                raise ShapeError(
                    f"Replay.add: expected {name} of shape {list(ring.shape[1:])} for each step, "
                    f"got {list(values.shape[1:])}; keep one buffer for each environment"
                )
            # Assignment would truncate floats to a ring of integers in silence.
            if not np.can_cast(values.dtype, ring.dtype, "same_kind"):
                raise BatchError(
                    f"Replay.add: expected {name} in {ring.dtype}, as those before, "
                    f"got {values.dtype}; keep one dtype"
                )


def joined(state: Mapping[str, Array]) -> dict[str, Array]:
    """Return the arrays of a state, without the position and with arrays by name as one."""
    whole: dict[str, Array] = {}
    parts: dict[str, dict[str, Array]] = {}
    for key, rows in state.items():
        name, of_part, part = key.partition(PART)
        if of_part:
            parts.setdefault(name, {})[part] = rows
        elif key != POSITION:
            whole[key] = rows
    return whole | {name: owned_observations(name, arrays) for name, arrays in parts.items()}


def transitions(batch: Batch) -> dict[str, Array]:
    """Return a batch's [B, ...] transitions by the names of a ring's arrays."""
    assert batch.log_probs is not None
    # The batch has one flag an episode, a transition needs its own.
    terminated = np.zeros(batch.num_steps, np.bool_)
    terminated[batch.episode_ends] = batch.terminated
    rows = {
        "observations": batch.observations,
        "actions": batch.actions,
        "rewards": batch.rewards,
        "next_observations": batch.next_observations,
        "terminated": terminated,
        "log_probs": batch.log_probs,
    }
    optional = {"action_mask": batch.action_mask, NEXT_MASK: batch.next_action_mask}
    optional[DISCOUNT] = batch.discount
    return rows | {name: array for name, array in optional.items() if array is not None}


def mask_names(rows: Mapping[str, Array]) -> str:
    """Return the names of the action masks among arrays, for an error."""
    return " and ".join(sorted(MASKS & rows.keys())) or "none"
