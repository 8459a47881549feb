"""A replay buffer: the last steps of a run in a ring, drawn uniformly as batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import BatchError, FileError, ShapeError
from pgcore.validation.arrays import Array, read_only
from pgcore.validation.fields import count

__all__ = ["Replay"]

POSITION = "position"
NEXT_MASK = "next_action_mask"
MASKS = frozenset(("action_mask", NEXT_MASK))


class Replay:
    """A ring of transitions; when it is full a new step takes the oldest one's place.

    Its arrays are made when the first steps come, which say how wide they are.

    Attributes:
        capacity: Steps it holds at most.
        size: Steps it holds.
    """

    def __init__(self, capacity: int) -> None:
        """Start empty.

        Raises:
            SpecError: a capacity below 1.
        """
        self.capacity = count("Replay.capacity", capacity)
        self.size = 0
        self._position = 0  # where the next step goes
        self._rings: dict[str, Array] = {}

    def add(self, batch: Batch) -> None:
        """Take in a batch's steps, in their order; of more than the capacity the last ones stay.

        Raises:
            BatchError: the batch has no log_probs, masks actions where those before did not, or has an episode that was cut and no final
                observations.
            ShapeError: its rows are not as wide as those that came before.
        """
        if batch.log_probs is None:
            raise BatchError(
                "Replay.add: expected log_probs, got none; pass what `Policy.act` returned"
            )
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
        masks = {"action_mask": batch.action_mask, NEXT_MASK: batch.next_action_mask}
        rows |= {name: mask for name, mask in masks.items() if mask is not None}
        if not self._rings:
            self._rings = {
                name: np.zeros((self.capacity, *given.shape[1:]), given.dtype)
                for name, given in rows.items()
            }
        self._check_widths(rows)
        kept = min(batch.num_steps, self.capacity)
        # Where each step goes is counted over all steps, so that the ring is the same however they are split into batches.
        places = (
            self._position + np.arange(batch.num_steps - kept, batch.num_steps)
        ) % self.capacity
        for name, given in rows.items():
            self._rings[name][places] = given[-kept:]
        self._position = (self._position + batch.num_steps) % self.capacity
        self.size = min(self.size + batch.num_steps, self.capacity)

    def sample(self, steps: int, rng: np.random.Generator) -> Batch:
        """Return steps drawn uniformly with replacement, as episodes of one step each.

        A step that did not end in a terminal state is bootstrapped from the observation that followed it.

        Args:
            steps: At least 1.
            rng: Where the choice comes from.

        Raises:
            BatchError: the buffer is empty, or steps is below 1.
        """
        count("Replay.sample", steps, BatchError)
        if self.size == 0:
            raise BatchError(
                "Replay.sample: expected steps to draw from, got none; add a batch first"
            )
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
        """Return the arrays that `load` takes: the rows that are filled, and where the next step goes."""
        return {
            POSITION: np.array([self._position]),
            **{name: ring[: self.size].copy() for name, ring in self._rings.items()},
        }

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from what `state` returned.

        Raises:
            FileError: the state is of another capacity.
        """
        position, size = int(state[POSITION][0]), len(state["rewards"]) if "rewards" in state else 0
        # A ring that is not full goes on at its end; one that is full has as many rows as its capacity.
        if size > self.capacity or (size < self.capacity and position != size):
            raise FileError(
                f"checkpoint: expected a replay buffer of capacity {self.capacity}, got one of another with {size} steps; "
                "leave replay.capacity as it was"
            )
        self._rings = {
            name: np.zeros((self.capacity, *rows.shape[1:]), rows.dtype)
            for name, rows in state.items()
            if name != POSITION
        }
        for name, ring in self._rings.items():
            ring[:size] = state[name]
        self._position, self.size = position, size

    def _check_widths(self, rows: Mapping[str, Array]) -> None:
        if rows.keys() != self._rings.keys():
            now, before = (
                " and ".join(sorted(MASKS & names.keys())) or "none"
                for names in (rows, self._rings)
            )
            raise BatchError(
                f"Replay.add: expected action masks in all batches or in none, got {now} after {before}; mask with True where all are possible"
            )
        for name, given in rows.items():
            ring = self._rings[name]
            wanted = ring.shape[1:]
            if given.shape[1:] != wanted:
                raise ShapeError(
                    f"Replay.add: expected {name} of shape {list(wanted)} for each step, got {list(given.shape[1:])}; "
                    "keep one buffer for each environment"
                )
            if not np.can_cast(given.dtype, ring.dtype, "same_kind"):
                raise BatchError(
                    f"Replay.add: expected {name} in {ring.dtype}, as those before, got {given.dtype}; keep one dtype"
                )
