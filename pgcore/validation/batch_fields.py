"""Validation of a batch's fields: one by one, then whether they agree."""

from __future__ import annotations

from collections.abc import Mapping
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

__all__ = ["LOSS_MASK", "OPTIONAL_REALS", "validated"]

LOSS_MASK = "loss_mask"  # the extra that marks the steps of the loss
OPTIONAL_REALS = ("log_probs", "values", "step_weights", "discount")  # [B] float64 or None


def validated(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Batch` as the fields that it holds, or raise its errors."""
    fields: dict[str, Any] = {
        "observations": owned_numbers("Batch.observations", arguments["observations"]),
        "actions": _actions(arguments["actions"]),
        "rewards": _float64("rewards", arguments["rewards"]),
        "action_mask": None,
    }
    for name in OPTIONAL_REALS:
        value = arguments[name]
        fields[name] = None if value is None else _float64(name, value)
    if arguments["action_mask"] is not None:
        fields["action_mask"] = owned_booleans("Batch.action_mask", arguments["action_mask"], 2)
    # Single fields are sound; the rest checks that they agree.
    observations = fields["observations"]
    mask = _loss_mask(arguments["extras"], observations)
    _check_steps(fields, observations, mask)
    _check_masking(fields["actions"], fields["action_mask"])
    lengths = _episode_lengths(arguments["episode_lengths"], len(observations))
    _check_step_weights(fields["step_weights"], lengths)
    _check_discount(fields["discount"])
    ended = owned_booleans("Batch.terminated", arguments["terminated"], 1)
    check_length("Batch.terminated", ended, len(lengths), "episode")
    final = _final_observations(arguments["final_observations"], observations, ended)
    fields |= {"episode_lengths": lengths, "terminated": ended, "final_observations": final}
    fields["final_values"] = _final_values(arguments["final_values"], ended)
    fields["extras"] = _extra_arrays(arguments["extras"], len(observations), mask)
    return fields


def _float64(name: str, value: ArrayLike) -> Array:
    """Return [B] or [E] float64."""
    return read_only(owned_numbers(f"Batch.{name}", value, (1,)).astype(np.float64, copy=False))


def _actions(value: ArrayLike) -> Array:
    """Return [B] or [B, n] actions, integers from 0 on or float64."""
    array = owned_numbers("Batch.actions", value, (1, 2))
    if array.dtype.kind == "f":
        return read_only(array.astype(np.float64, copy=False))
    # Larger numbers would wrap around when they become indices.
    most = np.iinfo(np.intp).max
    if array.size and (array.min() < 0 or array.max() > most):
        valid = ((array >= 0) & (array <= most)).reshape(len(array), -1).all(axis=1)
        rule, advice = "integers of at least 0", "number the actions from 0"
        check_rows("Batch.actions", rule, valid, array, advice)
    return read_only(array.astype(np.intp, copy=False))


def _loss_mask(extras: Mapping[str, ArrayLike] | None, observations: Array) -> Array | None:
    """Return [B] bool, the extra `loss_mask`, or None without one."""
    if not isinstance(cast("object", extras), Mapping) or LOSS_MASK not in cast("Any", extras):
        return None
    where = f"Batch.extras[{LOSS_MASK!r}]"
    mask = owned_booleans(where, cast("Any", extras)[LOSS_MASK], 1)
    check_length(where, mask, len(observations), "step")
    return mask


def _shown(value: Array, mask: Array | None) -> Array:
    """Return an array with 0 at masked steps, which may hold anything."""
    if mask is None or value.dtype.kind != "f":
        return value
    return np.where(mask.reshape(-1, *[1] * (value.ndim - 1)), value, 0.0)


def _check_steps(
    per_step: Mapping[str, Array | None], observations: Array, mask: Array | None
) -> None:
    """Raise unless there are steps, every array has a row for each, and all numbers are finite."""
    if observations.ndim == 0 or len(observations) == 0:
        raise BatchError(
            "Batch.observations: expected at least 1 step, got none; collect some steps first"
        )
    for name, value in per_step.items():
        if value is not None:
            check_length(f"Batch.{name}", value, len(observations), "step")
            recorded = name in ("log_probs", "values")
            check_finite(f"Batch.{name}", _shown(value, mask) if recorded else value)


def _check_masking(actions: Array, mask: Array | None) -> None:
    """Raise BatchError at the first step without a possible action, or with a masked one."""
    if mask is None:
        return
    rule = "a possible action at every step"
    check_rows("Batch.action_mask", rule, mask.any(axis=1), "none", "drop that step")
    # The head checks actions of several choices, and refuses a mask of continuous ones.
    if actions.ndim != 1 or actions.dtype.kind == "f":
        return
    rule = f"integers in [0, {mask.shape[1]}), the mask's width"
    check_rows("Batch.actions", rule, actions < mask.shape[1], actions, "check both")
    rule, possible = "actions that the mask allows", mask[np.arange(len(actions)), actions]
    check_rows("Batch.actions", rule, possible, actions, "check the mask")


def _check_step_weights(weights: Array | None, lengths: Array) -> None:
    """Raise BatchError unless weights are 0 or 1, equal within an episode, and not all 0."""
    if weights is None:
        return
    where, advice = "Batch.step_weights", "weigh steps in an estimator's signals"
    check_rows(where, "1, or 0 for padding", np.isin(weights, (0.0, 1.0)), weights, advice)
    if not weights.any():
        raise BatchError(
            f"{where}: expected at least 1 step that is not padding, got none; weigh one with 1"
        )
    first = np.repeat(weights[lengths.cumsum() - lengths], lengths)
    rule, advice = "one weight throughout an episode", "make the padding an episode of its own"
    check_rows(where, rule, weights == first, "another", advice)


def _check_discount(discount: Array | None) -> None:
    """Raise BatchError unless all discounts are in [0, 1]."""
    if discount is not None:
        valid = (discount >= 0) & (discount <= 1)
        check_rows("Batch.discount", "numbers in [0, 1]", valid, discount, "check that step")


def _episode_lengths(value: ArrayLike, steps: int) -> Array:
    """Return [E] integers of at least 1 that sum to the number of steps."""
    where = "Batch.episode_lengths"
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


def _final_observations(value: ArrayLike | None, like: Array, terminated: Array) -> Array | None:
    """Return [E, ...] or None, rows of the shape of `like`'s, finite for truncated episodes."""
    if value is None:
        return None
    where, shape = "Batch.final_observations", (len(terminated), *like.shape[1:])
    final = owned_numbers(where, value)
    if final.shape != shape:
        raise ShapeError(
            f"{where}: expected shape {list(shape)}, got {list(final.shape)}; pass a row an episode"
        )
    # Rows that are never read may hold anything, NaN included.
    read = final.copy()
    read[terminated] = 0
    check_finite(where, read, "episode")
    return final


def _final_values(value: ArrayLike | None, terminated: Array) -> Array | None:
    """Return [E] float64 or None, 0 for terminated episodes and finite for all."""
    if value is None:
        return None
    final = _float64("final_values", value)
    check_length("Batch.final_values", final, len(terminated), "episode")
    # The value of a terminal state is 0, whatever was recorded.
    final = read_only(np.where(terminated, 0.0, final))
    check_finite("Batch.final_values", final, "episode")
    return final


def _extra_arrays(
    extras: Mapping[str, ArrayLike] | None, steps: int, mask: Array | None
) -> dict[str, Array]:
    """Return [B, ...] arrays by name, without NaN where the loss mask is True."""
    if extras is None:
        return {}
    names = list(extras) if isinstance(cast("object", extras), Mapping) else [None]
    if not all(isinstance(name, str) for name in names):
        raise BatchError(
            f"Batch.extras: expected arrays by name, got {type(extras).__name__} without names; "
            "pass a dict from strings to arrays"
        )
    arrays: dict[str, Array] = {}
    for name, value in extras.items():
        where = f"Batch.extras[{name!r}]"
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
