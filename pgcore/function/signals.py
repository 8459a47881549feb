"""Signals for `pgcore.loss`: in the caller's arrays, laid out as the episodes were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.device_array import place_of
from pgcore.data.episodes import Episodes, ensure_episodes
from pgcore.data.native import Arrays, arrays_of, host
from pgcore.errors import BatchError, EstimatorError, ShapeError
from pgcore.function.recorded import Recorded
from pgcore.interfaces.estimator import Estimator, check_claims, ensure_estimator
from pgcore.interfaces.reduction import Totals
from pgcore.interfaces.signals import Signals
from pgcore.validation.arrays import Array, is_host
from pgcore.xp.namespace import Native

__all__ = ["LaidOutSignals", "laid_out_signals"]


@dataclass(slots=True, eq=False, repr=False)
class LaidOutSignals:
    """An estimator's signals as `pgcore.loss` takes them, on the device of the episodes' arrays.

    Arrays are laid out as the episodes: [B] flat, [E, T] padded, [T, N] a rollout. Entries that are no
    steps, such as padding, hold 0 and weigh 0.

    Attributes:
        values: [*shape, ...] by name.
        weights: [*shape] of each entry's term in the loss.
        real: [*shape] bool, True at the steps that count; None where all entries do.
        arrays: The framework's.
        rows: Whether each row of [E, T] is an episode.
    """

    values: dict[str, Native]
    weights: Native
    real: Native
    arrays: Arrays
    rows: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The layout's."""
        return tuple(self.weights.shape)

    def __repr__(self) -> str:
        """Return the layout and the names."""
        return f"LaidOutSignals({list(self.shape)} of {self.arrays.name}: {', '.join(self.values)})"

    def __getitem__(self, name: str) -> Native:
        """Return one signal."""
        return self.values[name]

    def steps(self, index: Any) -> LaidOutSignals:
        """Return the signals of some entries as flat steps, a minibatch; see `Signals.steps`.

        Weights are scaled by the number of steps that count here over that in the part.

        Args:
            index: [n] integers, positions in the flattened layout; also a slice or a bool mask of them.

        Raises:
            EstimatorError: the surrogate sees whole episodes, or a position is out of range.
        """
        part = self.part(index)
        part.weights = part.weights * (self.count() / part.count())
        return part

    def part(self, index: Any) -> LaidOutSignals:
        """Return the signals of some entries as flat steps, with their weights in the whole loss.

        The losses of the parts of any partition add up to the whole, and so do their gradients.

        Args:
            index: See `steps`.

        Raises:
            EstimatorError: see `steps`.
        """
        if "episode" in self.values:
            raise EstimatorError(
                "signals.part: expected the signals of a loss of single steps, got those of whole "
                "episodes; take rows of padded episodes with episodes or episode_part"
            )
        return self._taken(index, by_row=False)

    def episodes(self, index: Any) -> LaidOutSignals:
        """Return the signals of some rows of padded episodes, a minibatch; see `Signals.episodes`.

        Weights are scaled by the number of episodes over that in the part.

        Args:
            index: [n] integers, rows of [E, T]; also a slice or a bool mask of them.

        Raises:
            EstimatorError: the layout is not [E, T] with an episode in each row, or a row is out of range.
        """
        part = self.episode_part(index)
        part.weights = part.weights * (self.episode_count() / part.episode_count())
        return part

    def episode_part(self, index: Any) -> LaidOutSignals:
        """Return the signals of some rows of padded episodes, with their weights in the whole loss.

        Args:
            index: See `episodes`.

        Raises:
            EstimatorError: see `episodes`.
        """
        if not self.rows:
            raise EstimatorError(
                "signals.episode_part: expected padded episodes, one in each row of [E, T], got the "
                f"layout {list(self.shape)}; take single steps with steps or part"
            )
        part = self._taken(index, by_row=True)
        if "episode" in part.values:
            # Episodes are numbered by row, and entries that are no steps by the number of rows.
            old, arrays, (count, length) = part.values["episode"], self.arrays, part.shape
            numbers = np.repeat(np.arange(count)[:, None], length, axis=1)
            mine, beyond = (arrays.native(x, old) for x in (numbers, np.full_like(numbers, count)))
            part.values["episode"] = arrays.xp.where(old == self.shape[0], beyond, mine)
        return part

    def _taken(self, index: Any, *, by_row: bool) -> LaidOutSignals:
        """Return the signals of some rows, or of some entries as flat steps."""
        arrays, axes = self.arrays, len(self.shape)
        # Integers of the framework stay where they are.
        if not arrays.owns(index) or "int" not in arrays.dtype(index):
            numbers = whole_numbers(index, self.shape[0] if by_row else math.prod(self.shape))
            index = arrays.native(numbers, self.weights)

        def taken(value: Native) -> Native:
            if not by_row and axes > 1:
                value = arrays.reshape(value, (-1, *value.shape[axes:]))
            return arrays.rows(value, index)

        values = {name: taken(value) for name, value in self.values.items()}
        real, weights = None if self.real is None else taken(self.real), taken(self.weights)
        return LaidOutSignals(values, weights, real, arrays, by_row)

    def count(self) -> Native:
        """Return the number of steps that count, at least 1."""
        if self.real is None and None not in tuple(self.weights.shape):
            return math.prod(self.shape)
        xp, kind = self.arrays.xp, self.arrays.dtype(self.weights)
        ones = xp.full_like(self.weights, 1.0)  # for any number of steps
        real = ones if self.real is None else self.arrays.cast(self.real, kind)
        return xp.maximum(xp.sum(self.arrays.reshape(real, (-1,)), 0), 1.0)

    def episode_count(self) -> Native:
        """Return the number of rows with a step that counts, at least 1."""
        if self.real is None:
            return self.shape[0]
        xp, kind = self.arrays.xp, self.arrays.dtype(self.weights)
        steps = xp.sum(self.arrays.cast(self.real, kind), 1)
        return xp.maximum(xp.sum(self.arrays.cast(steps > 0, kind), 0), 1.0)


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
    reference = episodes.extras.get("reference")
    width = 0 if reference is None else reference.shape[-1]
    evaluate = Recorded(episodes, flat)
    # Signals read what episodes have; what only a batch has is an error that says so.
    found = Signals.of(estimator, cast("Batch", episodes), evaluate, np.dtype(dtype), width, totals)
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
    return LaidOutSignals(values, spread(found.weights), real, arrays, by_row)


def whole_numbers(index: Any, count: int) -> Array:
    """Return [n] positions in [0, count) of integers, a slice or a [count] bool mask.

    Raises:
        EstimatorError: the index is out of range, selects nothing or is not one-dimensional.
    """
    try:
        numbers = np.arange(count)[index if isinstance(index, slice) else host(index)]
    except (IndexError, ValueError) as error:  # ValueError for rows of several lengths
        raise EstimatorError(
            f"signals: expected positions in [0, {count}), got others ({error}); check the index"
        ) from error
    if numbers.ndim != 1 or len(numbers) == 0:
        raise EstimatorError(
            f"signals: expected one axis of at least 1 position, got an index of shape "
            f"{list(numbers.shape)}; pass the positions of a minibatch"
        )
    return numbers


def evaluation(episodes: Episodes, name: str, value: Any) -> Array:
    """Return a given evaluation as [B, ...] steps, or as [E, ...] of final observations.

    Raises:
        ShapeError: it is laid out in another way.
    """
    layout, device = episodes.layout, place_of(episodes.rewards)
    array: Any = host(value) if device is None else device.holding(value)
    if name.removeprefix("target_").startswith("final_"):
        expected = (episodes.num_episodes,)
    else:
        expected = (episodes.num_steps,) if layout is None else layout.shape
        if layout is not None and array.shape[: len(expected)] == expected:
            return layout.flat(array)
    if array.shape[: len(expected)] != expected:
        raise ShapeError(
            f"signals {name}: expected shape {[*expected, '...']}, as the episodes are laid out, got "
            f"{list(array.shape)}; pass one row for each step, or for each episode of `final_...`"
        )
    return array
