"""Episodes from columns of steps, whose rows may be in any order, and from transitions of a replay buffer."""

from __future__ import annotations

import numpy as np

from pgcore.data.columns import Columns, Flat, rows_with
from pgcore.data.host import host
from pgcore.data.layout import Layout
from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import Array, check_rows, is_host
from pgcore.validation.observations import layout_of, same_layout

__all__ = ["steps", "transitions"]

PER_STEP = ("observations", "actions", "rewards", "log_probs", "values", "action_mask", "discount")
PER_EPISODE = ("final_observations", "final_values")
KINDS = "iubUSO"  # NumPy's kinds of dtype that can number episodes: integers and strings


def steps(columns: Columns) -> Flat:
    """Return the episodes of columns; see `Episodes.from_steps`.

    Args:
        columns: The arguments by name.
    """
    shape = _shape(columns)
    terminated = columns.shaped("terminated", shape, boolean=True)
    done = terminated
    if "truncated" in columns.names:
        done = done | columns.shaped("truncated", shape, boolean=True)
    order = np.arange(*shape)
    if "episode" in columns.names:
        order, last = _sorted(columns, *shape)
        _check_ends(columns, done[order] & ~last, order)
    else:
        last = done.copy()
        last[-1:] = True

    def flat(name: str) -> Array:
        """Return [B, ...] an argument in the order of steps."""
        return columns.shaped(name, shape)[order]

    fields = columns.fields(PER_STEP, flat, lambda step: f"row {order[step]}")
    ends = np.flatnonzero(last)
    fields["episode_lengths"] = np.diff(ends, prepend=-1)
    fields["terminated"] = terminated[order][ends]
    fields |= {name: columns.numbers(name) for name in PER_EPISODE if name in columns.names}
    if {"next_observations", "final_observations"} <= columns.names:
        raise BatchError(
            f"{columns.where}: expected next_observations or final_observations, got both; leave out the "
            "second, which are the first at episodes' ends"
        )
    if "next_observations" in columns.names:
        following = flat("next_observations")
        _check_following(columns, fields["observations"], following, last, order)
        fields["final_observations"] = following[ends]
    if "values" in fields and fields["terminated"].all():
        fields.setdefault("final_values", np.zeros(len(ends)))
    moved = (order != np.arange(len(order))).any()
    return Flat(fields, Layout(shape, order) if moved else None, columns.like)


def _shape(columns: Columns) -> tuple[int, ...]:
    """Return the shape of the rewards, [B]; raise unless there is a step."""
    shape = columns.numbers("rewards", 1).shape
    if shape == (0,):
        raise BatchError(
            f"{columns.where} rewards: expected at least 1 step, got none; collect some steps first"
        )
    return shape


def _sorted(columns: Columns, rows: int) -> tuple[Array, Array]:
    """Return [B] the row of each step, episodes in the order of their first rows, and [B] last steps."""
    where = f"{columns.where} episode"
    try:
        numbers = np.asarray(host(columns.raw("episode")))
        # Strings of a data frame are objects; mixed ones cannot be sorted.
        _, first, number = np.unique(numbers, return_index=True, return_inverse=True)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise BatchError(
            f"{where}: expected [B] integers or strings, got others ({reason}); number the episodes"
        ) from error
    if numbers.shape != (rows,):
        raise ShapeError(
            f"{where}: expected {rows} rows, one for each step, got shape {list(numbers.shape)}; "
            "pass the episode of every row"
        )
    if numbers.dtype.kind not in KINDS:
        raise BatchError(
            f"{where}: expected [B] integers or strings, got dtype {numbers.dtype}; number the "
            "episodes"
        )
    appearance = first[number]
    order = np.argsort(appearance, kind="stable")
    return order, np.append(np.diff(appearance[order]) != 0, [True])


def _check_ends(columns: Columns, early: Array, order: Array) -> None:
    """Raise BatchError where a step ends its episode and is not the last one."""
    if early.any():
        raise BatchError(
            f"{columns.where} episode: expected the end of an episode in its last row, got one before "
            f"it, in row {order[early.argmax()]}; number episodes, not environments, and sort rows "
            "by time"
        )


def _check_following(
    columns: Columns, observations: Array, following: Array, last: Array, order: Array
) -> None:
    """Raise unless the next observation inside an episode is the next row's."""
    if not same_layout(following, observations):
        rows = len(observations)
        raise ShapeError(
            f"{columns.where} next_observations: expected shape {layout_of(observations, rows)}, as "
            f"observations, got {layout_of(following, rows)}; pass one for each row"
        )
    # Numbers on a device are not read.
    if not (is_host(observations) and is_host(following)):
        return
    differs = rows_with(following[:-1] != observations[1:]) & ~last[:-1]
    if differs.any():
        raise BatchError(
            f"{columns.where} next_observations: expected the observation of the episode's next row, "
            f"got another in row {order[differs.argmax()]}; sort rows by time, or read transitions "
            "with from_replay"
        )


def transitions(columns: Columns) -> Flat:
    """Return transitions as episodes of one step; see `Episodes.from_replay`.

    Args:
        columns: The arguments by name.
    """
    shape = _shape(columns)

    def flat(name: str) -> Array:
        """Return [B, ...] an argument."""
        return columns.shaped(name, shape)

    extras = {"weights": flat("weights")} if "weights" in columns.names else {}
    fields = columns.fields(PER_STEP, flat, lambda step: f"row {step}", **extras)
    terminated = columns.shaped("terminated", shape, boolean=True)
    fields |= {"episode_lengths": np.ones(shape, np.intp), "terminated": terminated}
    finals = {f"final_{x}": f"next_{x}" for x in ("observations", "values")}
    fields |= {final: flat(x) for final, x in finals.items() if x in columns.names}
    if not any(final in fields for final in finals):
        kinds = ("observations", "values") if "observations" in columns.names else ("values",)
        # Without either, what follows can only be an evaluation, given to `pgcore.signals`.
        if not columns.names.isdisjoint(kinds):
            follows = " or ".join(f"next_{kind}" for kind in kinds)
            rule = f"{follows} after transitions that do not end"
            check_rows(columns.where, rule, terminated, "none", "pass what followed")
        if "values" in fields:
            fields["final_values"] = np.zeros(shape)
    return Flat(fields, None, columns.like)
