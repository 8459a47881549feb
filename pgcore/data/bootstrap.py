"""The bootstrap of a rollout's truncated episodes: what followed their last steps."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from pgcore.data.columns import Columns, rows_with
from pgcore.data.grid import Grid
from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import Array, is_host
from pgcore.validation.observations import layout_of, same_layout

__all__ = ["Bootstrap"]


class Bootstrap:
    """Final observations and final values of a rollout's episodes.

    Attributes:
        grid: The rollout.
        environments, times: [E] integer. The place of each episode's last step.
        inside: [E] bool. Truncated by the environment, and not by the rollout's end.
        last: [E] bool. What followed is the rollout's last observation or value.
        reset: [E] bool. What followed is in the row of a reset.
    """

    def __init__(self, grid: Grid) -> None:
        """Find the place of what followed each episode."""
        self.grid, self.columns = grid, grid.columns
        self.environments, self.times = grid.environments[grid.ends], grid.times[grid.ends]
        truncated, at_the_end = ~grid.ended, self.times == grid.done.shape[1] - 1
        self.inside = truncated & grid.done[self.environments, self.times]
        self.last = truncated & (at_the_end if grid.resets else ~self.inside)
        self.reset = truncated & ~at_the_end & grid.resets

    def finals(self) -> dict[str, Array]:
        """Return `final_observations`, `final_values` or both, [E, ...]: those of all episodes.

        Raises:
            BatchError: a truncated episode has neither, or lacks one of which others were passed.
        """
        names, finals = self.columns.names, dict[str, Array]()
        kinds = ("observations", "values") if "observations" in names else ("values",)
        for kind in kinds:
            sources = self._sources(kind)
            there = self.grid.ended.copy()
            for episodes, _ in sources:
                there |= episodes
            passed = f"final_{kind}" in names or f"last_{kind}" in names
            if there.all():
                finals |= self._joined(kind, sources)
            elif passed or (kind == kinds[-1] and not finals):
                self._refuse(int(there.argmin()), (kind,) if passed else kinds)
        return finals

    def _sources(self, kind: str) -> list[tuple[Array, Array]]:
        """Return ([E] bool, rows of those episodes) of each argument with rows; later ones hold.

        Args:
            kind: "observations" or "values".
        """
        sources, columns, grid = list[tuple[Array, Array]](), self.columns, self.grid
        if f"last_{kind}" in columns.names:
            last = columns.shaped(f"last_{kind}", grid.done.shape[:1])
            sources.append((self.last, last[self.environments[self.last]]))
        if kind in columns.names and self.reset.any():
            rows = grid.by_environment(columns.shaped(kind, grid.shape))
            # The row of a reset holds what followed the episode before it.
            place = self.environments[self.reset], self.times[self.reset] + 1
            sources.append((self.reset, rows[place]))
        if f"final_{kind}" in columns.names:
            sources.append((self.inside, self._final_rows(kind)))
        self._check_shapes(kind, sources)
        if kind == "observations" and grid.resets:
            self._check_agreement(sources)
        return sources

    def _final_rows(self, kind: str) -> Array:
        """Return the rows of `final_observations` or `final_values` at truncated episodes' ends."""
        name, grid = f"final_{kind}", self.grid
        environments, times = self.environments[self.inside], self.times[self.inside]
        value = self.columns.raw(name)
        if not _has_gaps(value):
            rows = grid.by_environment(self.columns.shaped(name, grid.shape))
            return rows[environments, times]
        self._check_lengths(name, value)
        rows = list[Any]()
        for environment, time in zip(environments, times, strict=True):
            place = (time, environment) if grid.in_time else (environment, time)
            row = _entry(value, *place)
            if row is None:
                raise BatchError(
                    f"{self.columns.where} {name}: expected a row for each truncated episode, got "
                    f"none at step {time} of environment {environment}; pass info['final_obs'] of "
                    "that step"
                )
            rows.append(row)
        if not rows:
            return self._no_rows(kind)
        return Columns(self.columns.where, {name: rows}, None).numbers(name)

    def _check_lengths(self, name: str, value: Any) -> None:
        """Raise ShapeError if nested lists are longer than the rollout, such as with an earlier one's."""
        first, second = self.grid.shape
        kinds = (list, tuple, np.ndarray)
        lengths = {len(cast("list[Any]", row)) for row in value if isinstance(row, kinds)}
        if len(value) > first or max(lengths, default=0) > second:
            raise ShapeError(
                f"{self.columns.where} {name}: expected at most {first} rows of {second}, as the "
                f"rewards, or None, got {len(value)} rows of at most {max(lengths, default=0)}; pass one "
                "entry for each step"
            )

    def _no_rows(self, kind: str) -> Array:
        """Return [0, ...] observations, or values."""
        if kind == "values":
            return np.zeros(0)
        observations = self.columns.shaped(kind, self.grid.shape)
        return observations[:0].reshape(0, *observations.shape[2:])

    def _check_shapes(self, kind: str, sources: list[tuple[Array, Array]]) -> None:
        """Raise ShapeError unless all rows are of one shape."""
        like = self._no_rows(kind)
        for _, rows in sources:
            if not same_layout(rows, like):
                raise ShapeError(
                    f"{self.columns.where}: expected final and last {kind} of shape {layout_of(like)} "
                    f"each, got {layout_of(rows)}; lay all arrays out alike"
                )

    def _check_agreement(self, sources: list[tuple[Array, Array]]) -> None:
        """Raise BatchError where a final observation is not the one in the row of the reset."""
        if "final_observations" not in self.columns.names:
            return
        *others, (_, final) = sources
        for episodes, following in others:
            both = episodes & self.inside
            left, right = following[both[episodes]], final[both[self.inside]]
            # Numbers on a device are not read.
            if not (is_host(left) and is_host(right)):
                return
            differs = rows_with(left != right)
            if differs.any():
                step = self.grid.ends[both][differs.argmax()]
                raise BatchError(
                    f"{self.columns.where} final_observations: expected the next row's observation, "
                    "which autoreset='next_step' gives for an episode's last one, got another at "
                    f"{self.grid.place(step)}; name the mode of the environments"
                )

    def _joined(self, kind: str, sources: list[tuple[Array, Array]]) -> dict[str, Array]:
        """Return [E, ...] rows of all episodes by name, 0 for terminated ones, or nothing."""
        # Recorded values without a truncated episode are complete: a terminal state's is 0.
        if not sources and not (kind == "values" and kind in self.columns.names):
            return {}
        dtypes = [rows.dtype for _, rows in sources] or [np.float64]
        count, shape = len(self.grid.ended), self._no_rows(kind).shape[1:]
        shape, dtype = (count, *shape), np.result_type(*dtypes)
        result: Any = np.zeros(shape, dtype)
        held = [rows for _, rows in sources if not is_host(rows)]
        if held:
            result = np.zeros_like(held[0], dtype, shape=shape)
        for episodes, rows in sources:
            result[episodes] = rows
        return {f"final_{kind}": result}

    def _refuse(self, episode: int, kinds: tuple[str, ...]) -> None:
        """Raise BatchError for a truncated episode without a bootstrap."""
        which = "last" if self.last[episode] else "final"
        names = " or ".join(f"{which}_{kind}" for kind in kinds)
        cause = "" if self.inside[episode] else " by the rollout's end"
        raise BatchError(
            f"{self.columns.where}: expected {names}, for the episode truncated{cause} at "
            f"{self.grid.place(self.grid.ends[episode])}, got none; pass what followed that step"
        )


def _has_gaps(value: object) -> bool:
    """Whether a value is nested lists, with None or objects where nothing is read."""
    if isinstance(value, np.ndarray):
        return cast("Array", value).dtype == object
    items = cast("list[object]", value) if isinstance(value, list | tuple) else ()
    return any(item is None or _has_gaps(item) for item in items)


def _entry(value: Any, first: int, second: int) -> Any:
    """Return an entry of nested lists, None where there is none."""
    try:
        return None if value[first] is None else value[first][second]
    except (LookupError, TypeError):
        return None
