"""Some steps of a batch as a batch of their own, and the way back."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array, read_only

__all__ = ["Selection"]


class Selection:
    """Some steps of a batch, as if the others had never been steps.

    Episodes are shorter, and one of which nothing is left is left out. A reward of another step goes
    to the last selected one before it in its episode, or to the episode's first.

    Attributes:
        whole: The batch that they are of.
        steps: [B] bool, true for the selected steps.
    """

    def __init__(self, whole: Batch, steps: Array) -> None:
        """Keep both."""
        self.whole, self.steps = whole, steps

    @cached_property
    def lengths(self) -> Array:
        """[E] integer. The selected steps of each of the whole's episodes."""
        return np.add.reduceat(self.steps, self.whole.episode_starts, dtype=np.intp)

    @cached_property
    def episodes(self) -> Array:
        """[E] bool, true for episodes with a selected step."""
        return self.lengths > 0

    @cached_property
    def batch(self) -> Batch:
        """The selected steps; at least 1."""
        whole = self.whole
        fields: dict[str, Any] = {name: self._of(getattr(whole, name)) for name in whole.per_step}
        fields["rewards"] = read_only(self._rewards())
        fields["extras"] = {name: self._of(array) for name, array in whole.extras.items()}
        for name in whole.per_episode:
            value: Array | None = getattr(whole, name)
            fields[name] = None if value is None else read_only(value[self.episodes])
        fields["episode_lengths"] = read_only(self.lengths[self.episodes])
        fields["like"] = whole.like
        return type(whole).trusted(fields)

    def spread(self, array: Array) -> Array:
        """Return [B, ...] an array of the selected steps, with 0 at the others."""
        result = np.zeros_like(array, shape=(len(self.steps), *array.shape[1:]))
        result[self.steps] = array
        return result

    def _of(self, array: Array | None) -> Array | None:
        return None if array is None else read_only(array[self.steps])

    def _rewards(self) -> Array:
        """Return [b] rewards, those of other steps moved to selected ones."""
        before = np.cumsum(self.steps)
        first = before[self.whole.episode_starts] - self.steps[self.whole.episode_starts]
        place = np.maximum(before - 1, first[self.whole.episode_of_step])
        within = self.episodes[self.whole.episode_of_step]
        return np.bincount(place[within], self.whole.rewards[within], int(before[-1]))
