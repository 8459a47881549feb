"""Validation of a batch's fields: each function returns one field as a batch keeps it, or says what is wrong with it and where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore.errors import BatchError, ShapeError
from pgcore.validation.arrays import Array, check_finite, check_length, owned_numbers, read_only

__all__ = [
    "actions",
    "check_masking",
    "check_step_weights",
    "check_steps",
    "episode_lengths",
    "extra_arrays",
    "final_observations",
    "final_values",
    "float64",
    "per_row",
]


def per_row(flags: Array, like: Array) -> Array:
    """Return [E] flags in a shape that selects rows of `like`."""
    return flags.reshape(-1, *([1] * (like.ndim - 1)))


def float64(name: str, value: ArrayLike) -> Array:
    """Return [B] float64, or raise ShapeError or BatchError."""
    return read_only(owned_numbers(f"Batch.{name}", value, (1,)).astype(np.float64, copy=False))


def actions(value: ArrayLike) -> Array:
    """Return [B] integers from 0 on, or [B, n] float64; raise ShapeError or BatchError at the first step that has neither."""
    array = owned_numbers("Batch.actions", value, (1, 2))
    if (
        array.dtype.kind != "f"
        and array.size
        and (array.min() < 0 or array.max() > np.iinfo(np.intp).max)
    ):
        step = int(
            ((array < 0) | (array > np.iinfo(np.intp).max))
            .reshape(len(array), -1)
            .any(axis=1)
            .argmax()
        )
        raise BatchError(
            f"Batch.actions: expected integers of at least 0, got {array[step]} at step {step}; number the actions from 0"
        )
    return read_only(array.astype(np.float64 if array.dtype.kind == "f" else np.intp, copy=False))


def check_steps(per_step: dict[str, Array | None]) -> int:
    """Return B, or raise ShapeError or BatchError unless every field has a finite row for each of at least one step."""
    observations = per_step["observations"]
    assert observations is not None
    if observations.ndim == 0 or len(observations) == 0:
        raise BatchError(
            "Batch.observations: expected at least 1 step, got none; collect some steps before making a batch"
        )
    for name, value in per_step.items():
        if value is not None:
            check_length(f"Batch.{name}", value, len(observations), "step")
            check_finite(f"Batch.{name}", value)
    return len(observations)


def check_masking(actions: Array | None, mask: Array | None) -> None:
    """Raise BatchError at the first step with no possible action, or whose action the mask forbids."""
    if mask is None:
        return
    if not mask.any(axis=1).all():
        step = int(mask.any(axis=1).argmin())
        raise BatchError(
            f"Batch.action_mask: expected a possible action at every step, got none at step {step}; drop that step"
        )
    if actions is None or actions.ndim != 1 or actions.dtype.kind == "f":
        return  # the head checks actions of several choices, and refuses a mask for real ones
    outside = actions >= mask.shape[1]
    if outside.any():
        step = int(outside.argmax())
        raise BatchError(
            f"Batch.actions: expected integers in [0, {mask.shape[1]}), the mask's width, got {actions[step]} at step {step}; check both"
        )
    possible = mask[np.arange(len(actions)), actions]
    if not possible.all():
        step = int(possible.argmin())
        raise BatchError(
            f"Batch.actions: expected actions that the mask allows, got {actions[step]} at step {step}; check the mask"
        )


def check_step_weights(weights: Array | None, lengths: Array) -> None:
    """Raise BatchError unless weights are 0 or 1, the same throughout an episode, and not all 0."""
    if weights is None:
        return
    if not np.isin(weights, (0.0, 1.0)).all():
        raise BatchError(
            "Batch.step_weights: expected 1, or 0 for padding, got other values; weigh steps in an estimator's signals"
        )
    if not weights.any():
        raise BatchError(
            "Batch.step_weights: expected at least 1 step that is not padding, got none; keep some of weight 1"
        )
    differing = weights != np.repeat(weights[lengths.cumsum() - lengths], lengths)
    if differing.any():
        raise BatchError(
            f"Batch.step_weights: expected one weight throughout an episode, got another at step {int(differing.argmax())}; "
            "make the padding an episode of its own"
        )


def episode_lengths(value: ArrayLike, steps: int) -> Array:
    """Return [E] integers, or raise ShapeError or BatchError unless they are at least 1 and sum to the number of steps."""
    lengths = owned_numbers("Batch.episode_lengths", value, (1,))
    if lengths.dtype.kind not in "iu":
        raise BatchError(
            f"Batch.episode_lengths: expected integers, got dtype {lengths.dtype}; count each episode's steps"
        )
    if len(lengths) == 0 or lengths.min() < 1:
        where = f"0 or less in episode {int(np.argmin(lengths))}" if len(lengths) else "no episodes"
        raise BatchError(
            f"Batch.episode_lengths: expected at least 1 step in every episode, got {where}; leave empty episodes out"
        )
    if (total := sum(lengths.tolist())) != steps:
        raise ShapeError(
            f"Batch.episode_lengths: expected lengths that sum to {steps}, the number of steps, got a sum of {total}; check both"
        )
    return read_only(lengths.astype(np.intp, copy=False))


def final_observations(
    value: ArrayLike | None, observations: Array | None, terminated: Array
) -> Array | None:
    """Return [E, ...] or None; raise ShapeError or BatchError unless rows fit the observations and are finite where an episode was cut."""
    if value is None:
        return None
    assert observations is not None
    final = owned_numbers("Batch.final_observations", value)
    if final.shape != (len(terminated), *observations.shape[1:]):
        wanted = [len(terminated), *observations.shape[1:]]
        raise ShapeError(
            f"Batch.final_observations: expected shape {wanted}, got {list(final.shape)}; pass one row for each episode"
        )
    check_finite(
        "Batch.final_observations",
        np.where(per_row(terminated, final), final.dtype.type(0), final),
        "episode",
    )
    return final


def final_values(value: ArrayLike | None, terminated: Array) -> Array | None:
    """Return [E] float64 or None, 0 where an episode terminated.

    Raises ShapeError or BatchError unless there is a finite number for each truncated episode.
    """
    if value is None:
        return None
    final = float64("final_values", value)
    check_length("Batch.final_values", final, len(terminated), "episode")
    final = read_only(np.where(terminated, 0.0, final))
    check_finite("Batch.final_values", final, "episode")
    return final


def extra_arrays(extras: Mapping[str, ArrayLike] | None, steps: int) -> dict[str, Array]:
    """Return the arrays by name; raise ShapeError or BatchError unless each has a row for each step and no NaN."""
    if extras is None:
        return {}
    if not isinstance(cast("object", extras), Mapping) or not all(
        isinstance(cast("object", name), str) for name in extras
    ):
        raise BatchError(
            f"Batch.extras: expected arrays by name, got {type(extras).__name__} without names; pass a dict from strings to arrays"
        )
    return {name: extra_array(name, value, steps) for name, value in extras.items()}


def extra_array(name: str, value: ArrayLike, steps: int) -> Array:
    """Return one of them; see `extra_arrays`."""
    where = f"Batch.extras[{name!r}]"
    array = owned_numbers(where, value)
    if array.ndim == 0:
        raise ShapeError(
            f"{where}: expected one row for each step, got a single number; repeat it for every step"
        )
    check_length(where, array, steps, "step")
    if array.dtype.kind == "f" and np.isnan(array).any():
        step = int(np.isnan(array.reshape(steps, -1)).any(axis=1).argmax())
        raise BatchError(
            f"{where}: expected numbers, got NaN at step {step}; find where it came from"
        )
    return array
