"""Compute signals for `pgcore.loss`, in the caller's arrays and laid out as the episodes were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.device_array import place_of
from pgcore.data.episodes import Episodes, ensure_episodes
from pgcore.data.native import arrays_of, host
from pgcore.errors import BatchError, EstimatorError, ShapeError
from pgcore.function.laid_out import LaidOutSignals
from pgcore.function.recorded import FINAL, TARGET, Recorded
from pgcore.interfaces.estimator import Estimator, check_claims, ensure_estimator
from pgcore.interfaces.policy import EVALUATIONS
from pgcore.interfaces.quantities import PER_ACTION, QUANTITIES
from pgcore.interfaces.reduction import Totals
from pgcore.interfaces.signals import Signals
from pgcore.validation.arrays import Array, is_host
from pgcore.wording import shown
from pgcore.xp.namespace import Native

__all__ = ["laid_out_signals"]


def laid_out_signals(
    estimator: Estimator, episodes: Episodes, given: Mapping[str, Any], totals: Totals
) -> LaidOutSignals:
    """Return an estimator's signals in the arrays and the layout of some episodes.

    Args:
        estimator: Whose constants.
        episodes: With the recorded values and log-probabilities that the constants need.
        given: Evaluations of a policy by name, laid out as the episodes, or [E, ...] of final ones.
        totals: Of the whole that the episodes are a part of.

    Raises:
        EstimatorError, BatchError, ShapeError, NonFiniteError: see `pgcore.signals`.
    """
    ensure_estimator("signals estimator", estimator)
    ensure_episodes("signals episodes", episodes)
    check_claims(estimator)
    check_evaluations(episodes, given)
    if episodes.device is not None:
        with suppress(Exception), episodes.device.arrays.computing(episodes.device.dtype):
            return computed(estimator, episodes.on_device(), given, totals)
        # Code that takes no arrays but NumPy's gets those, and an error has its step from them.
    return computed(estimator, episodes, given, totals)


def computed(
    estimator: Estimator, episodes: Episodes, given: Mapping[str, Any], totals: Totals
) -> LaidOutSignals:
    """Return `laid_out_signals`, computed where the episodes' floats are."""
    layout, like = episodes.layout, episodes.like
    flat = {name: evaluation(episodes, name, value) for name, value in given.items()}
    like = episodes.rewards if like is None else like
    device = place_of(episodes.rewards)
    arrays = arrays_of(like) if device is None else device.arrays
    if arrays is None:
        raise BatchError(
            f"signals: expected arrays of a backend that is installed, got {type(like).__name__}; "
            "`pgcore list backends` shows them"
        )
    # Half precision has too few digits for sums over an episode.
    dtype = "float64" if arrays.dtype(like) == "float64" else "float32"
    if device is not None:
        like, dtype = device.like, device.dtype
    reference = flat.get("distribution", episodes.extras.get("reference"))
    width = 0 if reference is None else reference.shape[-1]
    evaluate = Recorded(episodes, flat)
    # Signals read what episodes have; what only a batch has is an error that says so.
    found = Signals.of(estimator, cast("Batch", episodes), evaluate, np.dtype(dtype), width, totals)
    evaluate.check_given(estimator)
    estimator.prepare()
    steps, shape = episodes.num_steps, (episodes.num_steps,) if layout is None else layout.shape

    def spread(value: Any, fill: float = 0) -> Native:
        laid_out: Any = value if layout is None else layout.spread(value, fill)
        return arrays.native(laid_out, like) if is_host(laid_out) else laid_out.native

    values = {
        name: spread(value, episodes.num_episodes if name == "episode" else 0)
        for name, value in found.values.items()
    }
    counts = None if not found.padded else found.padding_weights > 0
    if counts is not None and counts.all():
        counts = None
    real = None
    if math.prod(shape) != steps or counts is not None:
        real = spread(np.ones(steps, np.bool_) if counts is None else counts)
    by_row = layout is not None and len(shape) == 2 and episodes.num_episodes == shape[0]
    if layout is not None and by_row:
        by_row = np.array_equal(layout.positions // shape[-1], episodes.episode_of_step)
    signals = LaidOutSignals(values, spread(found.weights), real, arrays, rows=by_row)
    signals.averaged = real is None and are_means(found.weights)
    return signals


def check_evaluations(episodes: Episodes, given: Mapping[str, Any]) -> None:
    """Raise EstimatorError for a name that no evaluation has, or an array of another framework."""
    for name, value in given.items():
        if name.removeprefix(TARGET) not in (*EVALUATIONS, *QUANTITIES):
            raise EstimatorError(
                f"signals: expected names among {', '.join((*QUANTITIES, *EVALUATIONS))}, with or "
                f"without `{TARGET}`, got {shown(name)}; pass a policy's evaluations by their names"
            )
        like, mine = episodes.like, arrays_of(value)
        theirs = None if like is None else arrays_of(like)
        if mine and theirs and mine.differentiates and mine is not theirs:
            raise EstimatorError(
                f"signals {name}: expected an array of {theirs.name}, as the episodes' are, got one of "
                f"{mine.name}; convert one of them"
            )


def are_means(weights: Any) -> bool:
    """Whether [B] weights, of all steps, are 1 / B each; False on a device, where none is read."""
    if not is_host(weights) or len(weights) == 0:
        return False
    return bool((weights == weights.dtype.type(1 / len(weights))).all())


def evaluation(episodes: Episodes, name: str, value: Any) -> Array:
    """Return a given evaluation as [B, ...] steps, or as [E, ...] of final observations.

    Raises:
        ShapeError: it is laid out in another way.
    """
    layout, device = episodes.layout, place_of(episodes.rewards)
    array: Any = host(value) if device is None else device.holding(value)
    plain = name.removeprefix(TARGET)
    final = plain.startswith(FINAL)
    expected = (episodes.num_steps,) if layout is None else layout.shape
    expected = (episodes.num_episodes,) if final else expected
    columns = int(plain.removeprefix(FINAL) in (*PER_ACTION, "distribution"))
    if array.ndim != len(expected) + columns or array.shape[: len(expected)] != expected:
        shape = [*map(str, expected), *["A"] * columns]
        raise ShapeError(
            f"signals {name}: expected shape [{', '.join(shape)}], "
            f"{'one row for each episode' if final else 'as the episodes are laid out'}, got "
            f"{list(array.shape)}; pass one entry for each of theirs"
        )
    return array if final or layout is None else layout.flat(array)
