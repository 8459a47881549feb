"""Episodes from padded arrays: [E, T] with a mask of the steps, such as answers of a language model."""

from __future__ import annotations

from typing import Any

import numpy as np

from pgcore.data.columns import Columns, Flat
from pgcore.data.layout import Layout
from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import Array, is_host, owned_booleans, read_only

__all__ = ["padded"]

PER_STEP = ("observations", "actions", "log_probs", "values", "action_mask", "discount")
# Arguments that are extras.
EXTRAS = ("loss_mask", "rollout_log_probs", "reference_log_probs")
PER_EPISODE = ("final_observations", "final_values")


def padded(columns: Columns) -> Flat:
    """Return the episodes of padded arrays; see `Episodes.from_padded`.

    Args:
        columns: The arguments by name.
    """
    mask = owned_booleans(f"{columns.where} mask", columns.numbers("mask"), 2)
    if mask.size == 0:
        raise BatchError(
            f"{columns.where} mask: expected at least 1 step, got shape {list(mask.shape)}; "
            "collect some steps first"
        )
    _check_answers(columns, mask)
    episodes, times = np.nonzero(mask)
    layout = Layout(mask.shape, np.flatnonzero(mask))

    def flat(name: str) -> Array:
        """Return [B, ...] an argument in the order of steps."""
        array = columns.shaped(name, mask.shape)
        return array[mask] if is_host(array) else layout.flat(array)

    def place(step: int) -> str:
        """Return the place of a step, for errors."""
        return f"step {times[step]} of episode {episodes[step]}"

    lengths = mask.sum(axis=1)
    extras = _group(columns, lengths)
    extras |= {name: flat(name) for name in EXTRAS if name in columns.names}
    rewards = _rewards(columns, mask, lengths.cumsum() - 1)
    columns.check_finite("rewards", rewards, place)
    fields = columns.fields(PER_STEP, flat, place, **extras)
    fields |= {"rewards": rewards, "episode_lengths": lengths, "terminated": _ended(columns, mask)}
    fields |= {name: columns.numbers(name) for name in PER_EPISODE if name in columns.names}
    if "values" in fields and fields["terminated"].all():
        fields.setdefault("final_values", np.zeros(len(lengths)))
    return Flat(fields, layout, columns.like)


def _check_answers(columns: Columns, mask: Array) -> None:
    """Raise BatchError unless every row has a step."""
    empty = ~mask.any(axis=1)
    if empty.any():
        raise BatchError(
            f"{columns.where} mask: expected at least 1 step in every row, got none in row "
            f"{int(empty.argmax())}; leave that row out of all arrays"
        )


def _rewards(columns: Columns, mask: Array, ends: Array) -> Array:
    """Return [B] rewards: those of steps, or of answers at their last steps."""
    rewards = columns.numbers("rewards")
    if rewards.shape == mask.shape:
        return rewards[mask]
    if rewards.shape != mask.shape[:1]:
        raise ShapeError(
            f"{columns.where} rewards: expected shape {list(mask.shape)} as the mask's, or "
            f"{list(mask.shape[:1])}, a reward for each row, got {list(rewards.shape)}; lay all arrays "
            "out alike"
        )
    result = np.zeros_like(rewards, np.result_type(rewards.dtype, np.float64), shape=ends[-1] + 1)
    result[ends] = rewards
    return result


def _ended(columns: Columns, mask: Array) -> Array:
    """Return [E] bool, True for rows that are not truncated."""
    if "truncated" not in columns.names:
        return read_only(np.ones(len(mask), np.bool_))
    return ~columns.shaped("truncated", mask.shape[:1], boolean=True)


def _group(columns: Columns, lengths: Array) -> dict[str, Any]:
    """Return the extra `group`, [B] integers, or nothing."""
    if "group" not in columns.names:
        return {}
    group = columns.shaped("group", lengths.shape)
    if group.dtype.kind not in "iu" or group.ndim != 1:
        raise BatchError(
            f"{columns.where} group: expected [E] integers, got {group.dtype} of shape "
            f"{list(group.shape)}; number the prompts"
        )
    return {"group": np.repeat(group, lengths)}
