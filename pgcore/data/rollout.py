"""Episodes from rollouts: [T, N] or [N, T] arrays of T steps in each of N environments."""

from __future__ import annotations

from pgcore.data.bootstrap import Bootstrap
from pgcore.data.columns import Columns, Flat
from pgcore.data.grid import Grid
from pgcore.data.layout import Layout
from pgcore.errors import BatchError
from pgcore.validation.fields import choice

__all__ = ["rollout"]

ORDER = choice("time", "env")
AUTORESET = choice("next_step", "same_step", "disabled")
PER_STEP = ("observations", "actions", "rewards", "log_probs", "values", "action_mask", "discount")


def rollout(columns: Columns, order: object, autoreset: object) -> Flat:
    """Return the episodes of a rollout; see `Episodes.from_rollout`.

    Args:
        columns: The arguments by name.
        order: "time" for [T, N] arrays, "env" for [N, T].
        autoreset: "next_step", "same_step" or "disabled".
    """
    in_time = ORDER(f"{columns.where} order", order, BatchError) == "time"
    resets = AUTORESET(f"{columns.where} autoreset", autoreset, BatchError) == "next_step"
    grid = Grid(columns, in_time=in_time, resets=resets)
    fields = columns.fields(PER_STEP, grid.steps_of, grid.place)
    fields |= {"episode_lengths": grid.lengths, "terminated": grid.ended}
    layout = Layout(grid.shape, grid.positions)
    return Flat(fields | Bootstrap(grid).finals(), layout, columns.like)
