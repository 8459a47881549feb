"""Validation of a batch's fields: one by one, then whether they agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import (
    Array,
    check_finite,
    check_length,
    check_rows,
    owned_booleans,
    owned_numbers,
    read_only,
)
from pgcore.validation.observations import layout_of, owned_observations, same_layout

__all__ = ["LOSS_MASK", "OPTIONAL_REALS", "validated"]

LOSS_MASK = "loss_mask"  # the extra that marks the steps of the loss
OPTIONAL_REALS = ("log_probs", "values", "step_weights", "discount")  # [B] float64 or None


def validated(
    owner: str, arguments: Mapping[str, Any], unread: Collection[str] = ()
) -> dict[str, Any]:
    """Return the arguments of `Episodes` or `Batch` as the fields that it holds, or raise its errors.

    Args:
        owner: The class's name, for errors.
        arguments: By name; observations, actions, action_mask and final_observations only for `Batch`.
        unread: Names of those that hold zeros in place of their numbers.
    """
    acted = "observations" in arguments
    fields: dict[str, Any] = {}
    if acted:
        observations = owned_observations(f"{owner}.observations", arguments["observations"])
        fields |= {"observations": observations, "actions": _actions(owner, arguments["actions"])}
    fields["rewards"] = _float64(f"{owner}.rewards", arguments["rewards"])
    for name in OPTIONAL_REALS:
        value = arguments[name]
        fields[name] = None if value is None else _float64(f"{owner}.{name}", value)
    if acted:
        possible = arguments["action_mask"]
        if possible is not None:
            possible = owned_booleans(f"{owner}.action_mask", possible, 2)
        fields["action_mask"] = possible
    # Single fields are sound; the rest checks that they agree.
    steps = _check_some(owner, fields)
    mask = _loss_mask(owner, arguments["extras"], steps)
    _check_steps(owner, fields, steps, mask)
    if acted and fields["action_mask"] is not None and "action_mask" not in unread:
        _check_masking(
            owner, fields["action_mask"], None if "actions" in unread else fields["actions"]
        )
    lengths = _episode_lengths(owner, arguments["episode_lengths"], steps)
    _check_step_weights(owner, fields["step_weights"], lengths)
    _check_discount(owner, fields["discount"])
    ended = owned_booleans(f"{owner}.terminated", arguments["terminated"], 1)
    check_length(f"{owner}.terminated", ended, len(lengths), "episode")
    fields |= {"episode_lengths": lengths, "terminated": ended}
    if acted:
        final = arguments["final_observations"]
        fields["final_observations"] = _final_observations(
            owner, final, fields["observations"], ended
        )
    fields["final_values"] = _final_values(owner, arguments["final_values"], ended)
    fields["extras"] = _extra_arrays(owner, arguments["extras"], steps, mask)
    return fields


def _float64(where: str, value: ArrayLike) -> Array:
    """Return [B] or [E] float64."""
    return read_only(owned_numbers(where, value, (1,)).astype(np.float64, copy=False))


def _actions(owner: str, value: ArrayLike) -> Array:
    """Return [B] or [B, n] actions, integers from 0 on or float64."""
    where = f"{owner}.actions"
    array = owned_numbers(where, value, (1, 2))
    if array.dtype.kind == "f":
        return read_only(array.astype(np.float64, copy=False))
    # Larger numbers would wrap around when they become indices.
    most = np.iinfo(np.intp).max
    if array.size and (array.min() < 0 or array.max() > most):
        valid = ((array >= 0) & (array <= most)).reshape(len(array), -1).all(axis=1)
        rule, advice = "integers of at least 0", "number the actions from 0"
        check_rows(where, rule, valid, array, advice)
    return read_only(array.astype(np.intp, copy=False))


def _loss_mask(owner: str, extras: Mapping[str, ArrayLike] | None, steps: int) -> Array | None:
    """Return [B] bool, the extra `loss_mask`, or None without one."""
    if not isinstance(cast("object", extras), Mapping) or LOSS_MASK not in cast("Any", extras):
        return None
    where = f"{owner}.extras[{LOSS_MASK!r}]"
    mask = owned_booleans(where, cast("Any", extras)[LOSS_MASK], 1)
    check_length(where, mask, steps, "step")
    return mask


def _shown(value: Array, mask: Array | None) -> Array:
    """Return an array with 0 at masked steps, which may hold anything."""
    if mask is None or value.dtype.kind != "f":
        return value
    return np.where(mask.reshape(-1, *[1] * (value.ndim - 1)), value, 0.0)


def _check_some(owner: str, fields: Mapping[str, Array]) -> int:
    """Return the number of steps, the rows of the first field; raise unless there is one."""
    name, array = next(iter(fields.items()))
    if array.ndim == 0 or len(array) == 0:
        raise BatchError(
            f"{owner}.{name}: expected at least 1 step, got none; collect some steps first"
        )
    return len(array)


def _check_steps(
    owner: str, per_step: Mapping[str, Array | None], steps: int, mask: Array | None
) -> None:
    """Raise unless every array has a row for each step, and all numbers are finite."""
    for name, value in per_step.items():
        if value is not None:
            check_length(f"{owner}.{name}", value, steps, "step")
            recorded = name in ("log_probs", "values")
            check_finite(f"{owner}.{name}", _shown(value, mask) if recorded else value)


def _check_masking(owner: str, mask: Array, actions: Array | None) -> None:
    """Raise BatchError at the first step without a possible action, or with a masked one."""
    rule = "a possible action at every step"
    check_rows(f"{owner}.action_mask", rule, mask.any(axis=1), "none", "drop that step")
    # The head checks actions of several choices, and refuses a mask of continuous ones.
    if actions is None or actions.ndim != 1 or actions.dtype.kind == "f":
        return
    rule = f"integers in [0, {mask.shape[1]}), the mask's width"
    check_rows(f"{owner}.actions", rule, actions < mask.shape[1], actions, "check both")
    rule, possible = "actions that the mask allows", mask[np.arange(len(actions)), actions]
    check_rows(f"{owner}.actions", rule, possible, actions, "check the mask")


def _check_step_weights(owner: str, weights: Array | None, lengths: Array) -> None:
    """Raise BatchError unless weights are 0 or 1, equal within an episode, and not all 0."""
    if weights is None:
        return
    where, advice = f"{owner}.step_weights", "weigh steps in an estimator's signals"
    check_rows(where, "1, or 0 for padding", np.isin(weights, (0.0, 1.0)), weights, advice)
    if not weights.any():
        raise BatchError(
            f"{where}: expected at least 1 step that is not padding, got none; weigh one with 1"
        )
    first = np.repeat(weights[lengths.cumsum() - lengths], lengths)
    rule, advice = "one weight throughout an episode", "make the padding an episode of its own"
    check_rows(where, rule, weights == first, "another", advice)


def _check_discount(owner: str, discount: Array | None) -> None:
    """Raise BatchError unless all discounts are in [0, 1]."""
    if discount is not None:
        valid = (discount >= 0) & (discount <= 1)
        check_rows(f"{owner}.discount", "numbers in [0, 1]", valid, discount, "check that step")


def _episode_lengths(owner: str, value: ArrayLike, steps: int) -> Array:
    """Return [E] integers of at least 1 that sum to the number of steps."""
    where = f"{owner}.episode_lengths"
    lengths = owned_numbers(where, value, (1,))
    if lengths.dtype.kind not in "iu":
        raise BatchError(
            f"{where}: expected integers, got dtype {lengths.dtype}; count each episode's steps"
        )
    if len(lengths) == 0 or lengths.min() < 1:
        got = f"0 or less in episode {int(np.argmin(lengths))}" if len(lengths) else "no episodes"
        raise BatchError(
            f"{where}: expected at least 1 step in every episode, got {got}; leave empty ones out"
        )
    # Python's integers, since a sum in the array's dtype could wrap around.
    if (total := sum(lengths.tolist())) != steps:
        raise ShapeError(
            f"{where}: expected lengths that sum to {steps} steps, got a sum of {total}; check both"
        )
    return read_only(lengths.astype(np.intp, copy=False))


def _final_observations(
    owner: str, value: ArrayLike | None, like: Array, terminated: Array
) -> Array | None:
    """Return [E, ...] or None, rows of the shape of `like`'s, finite for truncated episodes."""
    if value is None:
        return None
    where = f"{owner}.final_observations"
    final = owned_observations(where, value)
    if final.shape[:1] != terminated.shape or not same_layout(final, like):
        expected, got = layout_of(like, len(terminated)), layout_of(final, *final.shape[:1])
        raise ShapeError(f"{where}: expected shape {expected}, got {got}; pass a row an episode")
    # Rows that are never read may hold anything, NaN included.
    read = final.copy()
    read[terminated] = 0
    check_finite(where, read, "episode")
    return final


def _final_values(owner: str, value: ArrayLike | None, terminated: Array) -> Array | None:
    """Return [E] float64 or None, 0 for terminated episodes and finite for all."""
    if value is None:
        return None
    where = f"{owner}.final_values"
    final = _float64(where, value)
    check_length(where, final, len(terminated), "episode")
    # The value of a terminal state is 0, whatever was recorded.
    final = read_only(np.where(terminated, 0.0, final))
    check_finite(where, final, "episode")
    return final


def _extra_arrays(
    owner: str, extras: Mapping[str, ArrayLike] | None, steps: int, mask: Array | None
) -> dict[str, Array]:
    """Return [B, ...] arrays by name, without NaN where the loss mask is True."""
    if extras is None:
        return {}
    names = list(extras) if isinstance(cast("object", extras), Mapping) else [None]
    if not all(isinstance(name, str) for name in names):
        raise BatchError(
            f"{owner}.extras: expected arrays by name, got {type(extras).__name__} without names; "
            "pass a dict from strings to arrays"
        )
    arrays: dict[str, Array] = {}
    for name, value in extras.items():
        where = f"{owner}.extras[{name!r}]"
        arrays[name] = array = owned_numbers(where, value)
        if array.ndim == 0:
            raise ShapeError(
                f"{where}: expected one row for each step, got a single number; repeat it"
            )
        check_length(where, array, steps, "step")
        # Infinity is allowed: a reference holds log-probabilities, -inf for masked actions.
        if array.dtype.kind == "f":
            valid = ~np.isnan(_shown(array, mask).reshape(steps, -1)).any(axis=1)
            check_rows(where, "numbers", valid, "NaN", "find where it came from")
    if mask is not None:
        arrays[LOSS_MASK] = mask
    return arrays
