"""Signals: the constants of a loss, computed from a batch once and sliced with it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from pgcore.data.batch import Batch, Index
from pgcore.data.device_array import Device, as_array
from pgcore.data.episodes import Episodes, ensure_episodes
from pgcore.errors import BatchError, EstimatorError, NonFiniteError, ShapeError
from pgcore.interfaces.estimator import KLS, QUANTITIES, Estimator, Evaluate
from pgcore.interfaces.extras import check_extras
from pgcore.interfaces.reduced import reduced
from pgcore.interfaces.reduction import THE_BATCH, Totals
from pgcore.validation.arrays import (
    Array,
    first_row,
    fixed,
    is_host,
    numbers_at,
    read_only,
    row_not_finite,
    rows_at,
)
from pgcore.validation.batch_fields import LOSS_MASK
from pgcore.validation.fields import instance_check

__all__ = [
    "Signals",
    "SignalsPart",
    "check_all_finite",
    "check_names",
    "check_reference",
    "ensure_signals",
]

# The name of the weights among a part's arrays: no keyword, so no signal's.
WEIGHTS = "loss weights"


@dataclass(slots=True, eq=False, repr=False)
class Signals:
    """An estimator's signals for a batch, in a policy's dtype, with the reduction's weights."""

    values: dict[str, Array]  # [B, ...] by name
    weights: Array  # [B] of each step's term in the loss; 0 for padding and steps left out
    padded: bool = field(kw_only=True)  # whether any step is padding or may be left out
    # [B] 0 for padding and steps left out; None: as the weights
    real: Array | None = field(default=None, kw_only=True)
    on_device: bool = field(default=False, init=False)  # see `remember_device`

    def __getitem__(self, name: str) -> Array:
        """Return one signal, of a device a copy."""
        return np.asarray(self.values[name])

    @property
    def native(self) -> bool:
        """Whether they are a framework's arrays on an accelerator; see `DeviceArray`."""
        return not all(map(is_host, self.values.values()))

    @property
    def names(self) -> AbstractSet[str]:
        """The signals' names."""
        return self.values.keys()

    def remember_device(self) -> None:
        """Let NumPy gather parts where they are read alone, since a policy gathers them on its device.

        The arrays are read-only then: a change would not reach their copies.
        """
        self.on_device = True
        for array in self.arrays.values():
            fixed(array)

    def settled(self, dtype: np.dtype[Any]) -> Signals:
        """Return the signals in a dtype, on a device too, with `real` in host memory, where steps are counted."""
        for name, value in self.values.items():
            self.values[name] = in_dtype(value, dtype)
        self.weights = in_dtype(self.weights, dtype)
        self.real = None if self.real is None else np.asarray(self.real)
        return self

    def steps(self, index: Index) -> Signals:
        """Return the signals of some steps, a minibatch; see `Batch.steps`.

        Weights are scaled by B / len(index), without padding in either: the loss of a minibatch is
        of the whole's size, and the mean over the equal parts of a partition is the batch's
        gradient. For parts that are summed, equal or not, see `part`.

        Raises:
            EstimatorError: the surrogate sees whole episodes, or a step number is out of range.
        """
        part = self._of_steps("steps", index)
        # Counting is slower than a length, so it is done with padding alone.
        size = np.count_nonzero if self.padded else len
        scale = size(self.padding_weights) / max(size(part.padding_weights), 1)
        return part.scaled(scale)

    def part(self, index: Index) -> Signals:
        """Return the signals of some steps, with their weights in the whole loss.

        The gradients of the parts of any partition add up to the batch's, see `Gradient.plus`: for
        micro-batches and data-parallel ranks. They do not under `normalise="minibatch"`, which
        normalises each. For minibatches that are steps of their own, see `steps`.

        Raises:
            EstimatorError: see `steps`.
        """
        return self._of_steps("part", index)

    def episodes(self, batch: Batch, index: Index) -> Signals:
        """Return the signals for `batch.episodes(index)`, weights scaled by E / len(index) as in `steps`.

        Args:
            batch: The one that the signals are of.
            index: Episode numbers in [0, E), a slice, or a [E] bool mask.

        Raises:
            BatchError: see `Batch.episodes`.
        """
        part = self.episode_part(batch, index)
        real = batch.episode_weights
        if self.padded:
            # An episode without a step that counts is no episode of the mean.
            real = np.maximum.reduceat(self.padding_weights, batch.episode_starts)
        scale = np.count_nonzero(real) / max(np.count_nonzero(real[index]), 1)
        return part.scaled(scale)

    def episode_part(self, batch: Batch, index: Index) -> Signals:
        """Return the signals for `batch.episodes(index)`, with their weights in the whole loss.

        See `episodes` for the arguments and errors, and `part` for the sum over parts.
        """
        ensure_episodes("Signals.episode_part batch", batch)
        numbers, steps = batch.episode_steps(index)
        renumbered = dict[str, Array]()
        # Episodes of the part are numbered anew, from 0.
        if "episode" in self.names:
            renumbered["episode"] = np.repeat(
                np.arange(len(numbers)), batch.episode_lengths[numbers]
            )
        return self._sliced(steps, self.weights[steps], renumbered)

    def _of_steps(self, method: str, index: Index) -> Signals:
        """Return the signals of some steps, unscaled; `method` is the caller's name."""
        if "episode" in self.names:
            raise EstimatorError(
                f"Signals.{method}: expected the signals of a loss of single steps, got those of "
                "whole episodes; slice with Batch.episodes and Signals.episodes or episode_part"
            )
        try:
            weights = self.weights[index]
        except (IndexError, ValueError) as error:  # ValueError for rows of several lengths
            raise EstimatorError(
                f"Signals.{method}: expected step numbers in [0, {len(self.weights)}), "
                f"got others ({error}); check the index"
            ) from error
        return self._sliced(index, weights, {})

    def _sliced(self, index: Index, weights: Array, renumbered: Mapping[str, Array]) -> Signals:
        """Return the signals of some steps, which have these weights; see `SignalsPart`."""
        if self.on_device:
            return SignalsPart(self, index, weights, renumbered)
        values = {name: rows_at(value, index) for name, value in self.values.items()}
        values.update(renumbered)
        real = None if self.real is None else self.real[index]
        return Signals(values, weights, padded=self.padded, real=real)

    def scaled(self, factor: float) -> Signals:
        """Multiply the weights, and return the signals."""
        # NumPy's own numbers, such as its counts, would make float64 of the weights.
        self.weights = self.weights * float(factor)
        return self

    def value(self, name: str) -> Array:
        """Return one signal."""
        return self.values[name]

    @property
    def arrays(self) -> dict[str, Array]:
        """The signals by name, and the weights."""
        return {**self.values, WEIGHTS: self.weights}

    @property
    def padding_weights(self) -> Array:
        """[B] 0 for padding, and above 0 elsewhere where a weight may be 0 at a real step too."""
        return self.weights if self.real is None else self.real

    @staticmethod
    def of(
        estimator: Estimator,
        batch: Batch,
        evaluate: Evaluate,
        dtype: np.dtype[Any],
        width: int,
        totals: Totals = THE_BATCH,
    ) -> Signals:
        """Compute, check and cast an estimator's signals; see `pgcore.signals` for the errors.

        Args:
            estimator: Whose signals.
            batch: The episodes.
            evaluate: The current policy.
            dtype: The policy's.
            width: The head's, and so that of a `reference`.
            totals: Of the whole that the batch is a part of.
        """
        if totals != THE_BATCH and estimator.own_denominator:
            raise EstimatorError(
                f"{estimator.name}: expected no totals beside a denominator of the loss's own, which is "
                f"the whole batch's, got {totals}; compute the signals of the whole and take "
                "Signals.part, or choose a mask that divides as the loss does"
            )
        check_extras(estimator.used_extras, batch, width)
        counted = estimator.counted(batch)
        check_loss_mask(estimator, batch, counted)
        # An overflow is reported below, by name and step.
        with np.errstate(all="ignore"):
            computed = run_signals(estimator, batch, evaluate)
        if estimator.sees_episodes:
            computed["episode"] = batch.episode_of_step
        check_names(estimator, computed)
        values: dict[str, Array] = {}
        for name, value in computed.items():
            where = f"{estimator.name}.signals[{name!r}]"
            array = as_array(value, np.float64 if name == "reference" else None)
            if array.ndim == 0 or len(array) != batch.num_steps:
                raise EstimatorError(
                    f"{where}: expected {batch.num_steps} rows, one for each step, got shape "
                    f"{list(array.shape)}; return one row for each step"
                )
            with np.errstate(over="ignore"):
                cast = array.astype(dtype, copy=False) if array.dtype.kind == "f" else array
            values[name] = cast
            if name == "reference":
                check_reference(where, array, width)
            else:
                check_all_finite(where, cast)
        weights = reduced(estimator.reduction, batch, counted, totals).astype(dtype)
        padded = batch.step_weights is not None or counted is not None
        real = None
        # A reduction may give a real step the weight 0.
        if padded:
            ones = np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
            real = (ones if counted is None else ones * counted).astype(dtype)
        if estimator.couples_steps and is_host(weights):
            check_equal_weights(estimator, batch, weights, real)
        return Signals(values, weights, padded=padded, real=real)


class SignalsPart(Signals):
    """The signals of some steps of a whole on a device, gathered by NumPy where they are read.

    Attributes:
        whole: The signals that they are a part of; no part itself unless an array of it was replaced.
        rows: [n] integer. The numbers of the part's steps in the whole.
        renumbered: [n] signals that are not rows of the whole's, by name: a part's own episodes.
        scales: The factors of the weights, in the order of multiplication.
        source: The whole's arrays at the time, by name.
        gathered: The part's arrays as they were gathered, by name.
    """

    __slots__ = ("gathered", "renumbered", "rows", "scales", "source", "whole")

    whole: Signals
    rows: Array
    renumbered: Mapping[str, Array]
    scales: tuple[float, ...]
    source: dict[str, Array]
    gathered: dict[str, Array]

    def __new__(cls, *_: Any, **fields: Any) -> Any:
        """Return a part, or plain `Signals` of fields by name, as `dataclasses.replace` asks for."""
        return Signals(**fields) if fields else super().__new__(cls)

    def __init__(
        self, whole: Signals, index: Index, weights: Array, renumbered: Mapping[str, Array]
    ) -> None:
        """Keep the arguments; [n] weights are the whole's at the index."""
        self.padded, self.on_device = whole.padded, whole.on_device
        self.real = None if whole.real is None else whole.real[index]
        # Numbers of its own, since the caller may change an index later.
        rows, scales = numbers_at(len(whole.weights), index), tuple[float, ...]()
        # A part of a part is one of the whole.
        if isinstance(whole, SignalsPart) and whole.intact:
            whole, rows, scales = whole.whole, whole.rows[rows], whole.scales
        self.whole, self.rows, self.scales = whole, rows, scales
        # A change of them would not reach the device.
        self.weights, self.renumbered = read_only(weights), renumbered
        self.source, self.gathered = whole.arrays, {WEIGHTS: weights}

    def __getattr__(self, name: str) -> Any:
        """Return the values at their first use; they are read-only, and no views of the whole's."""
        if name != "values":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        values = {name: self.value(name) for name in self.source if name != WEIGHTS}
        self.values = {name: read_only(np.array(value)) for name, value in values.items()}
        self.gathered |= self.values
        return self.values

    @property
    def native(self) -> bool:
        """See `Signals.native`; a part's own values, once read, are NumPy's."""
        return not self.read and not all(map(is_host, self.source.values()))

    @property
    def names(self) -> AbstractSet[str]:
        """See `Signals.names`."""
        return self.values.keys() if self.read else self.source.keys() - {WEIGHTS}

    @property
    def read(self) -> bool:
        """Whether the values have been gathered or replaced."""
        try:
            # Without `__getattr__`, which gathers them.
            object.__getattribute__(self, "values")
        except AttributeError:
            return False
        return True

    def value(self, name: str) -> Array:
        """See `Signals.value`; the others are not gathered."""
        if self.read:
            return self.values[name]
        return self.renumbered[name] if name in self.renumbered else self.source[name][self.rows]

    @property
    def intact(self) -> bool:
        """Whether no array of the whole or of the part was replaced."""
        present = self.arrays if self.read else {WEIGHTS: self.weights}
        return same(present, self.gathered) and same(self.whole.arrays, self.source)

    def scaled(self, factor: float) -> SignalsPart:
        """See `Signals.scaled`."""
        replaced = self.weights is not self.gathered[WEIGHTS]
        super().scaled(factor)
        read_only(self.weights)
        if not replaced:
            self.gathered[WEIGHTS] = self.weights
        self.scales = (*self.scales, float(factor))
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the arrays alone, without the whole."""
        return partial(Signals, padded=self.padded, real=self.real), (self.values, self.weights)


def in_dtype(array: Any, dtype: np.dtype[Any]) -> Any:
    """Return an array on a device with its floats in a dtype; NumPy's as it is."""
    if is_host(array) or array.dtype.kind != "f":
        return array
    place = array.place
    return Device(place.arrays, place.like, dtype.name).holding(array)


def same(left: Mapping[str, Array], right: Mapping[str, Array]) -> bool:
    """Return whether both hold the very same arrays."""
    return left.keys() == right.keys() and all(left[name] is right[name] for name in left)


def run_signals(estimator: Estimator, batch: Batch, evaluate: Evaluate) -> dict[str, Array]:
    """Return an estimator's signals; raise BatchError where it reads an extra that is not there."""
    try:
        return dict(estimator.signals(batch, evaluate))
    except KeyError as error:
        name = error.args[0] if error.args else None
        if not isinstance(name, str) or name in batch.extras:
            raise
        raise BatchError(
            f"{estimator.name}.signals: expected extras that it declares, got {name!r}, which the "
            f"batch lacks; if it is one, declare extras = {{{name!r}: pgcore.Extra('[B] float', ...)}}"
        ) from error


def check_loss_mask(estimator: Estimator, batch: Episodes, counted: Array | None) -> None:
    """Raise EstimatorError if a batch leaves a step out of the loss that an estimator counts.

    An estimator that reads the mask, and counts all steps, may find episodes in it that are left out
    as a whole.

    Args:
        estimator: Whose loss.
        batch: The episodes.
        counted: [B] bool, the steps that count; None for all.
    """
    mask = batch.loss_mask
    if mask is None or mask.all():
        return
    wrong = ~mask if counted is None else np.asarray(counted) & ~mask
    if batch.step_weights is not None:
        wrong = wrong & (batch.step_weights > 0)
    if LOSS_MASK in estimator.used_extras:
        wrong = wrong & np.logical_or.reduceat(mask, batch.episode_starts)[batch.episode_of_step]
    if wrong.any():
        raise EstimatorError(
            f"{estimator.name}: expected a loss that leaves out step {first_row(wrong)}, where the "
            f"batch's extra {LOSS_MASK!r} is False, got one that counts it; compose one with the mask "
            "'loss', or leave such steps out of the batch, as from_padded does by its `mask`"
        )


def check_names(estimator: Estimator, signals: Collection[str]) -> None:
    """Raise EstimatorError unless every keyword of the surrogate is a quantity or a signal."""
    available = QUANTITIES.keys() | set(signals)
    missing = [name for name in estimator.keywords if name not in available]
    if missing:
        raise EstimatorError(
            f"{estimator.name}.surrogate: expected keywords that are quantities "
            f"({', '.join(QUANTITIES)}) or signals ({', '.join(sorted(signals)) or 'none'}), "
            f"got {', '.join(missing)}; return the missing signals or rename the keywords"
        )
    if not KLS.isdisjoint(estimator.quantities) and "reference" not in signals:
        raise EstimatorError(
            f"{estimator.name}.signals: expected `reference`, which a KL measures from, got none; "
            "return it as a signal"
        )


def check_reference(where: str, reference: Array, width: int) -> None:
    """Raise ShapeError or NonFiniteError unless distribution parameters are [B, width] and defined."""
    if reference.ndim != 2 or reference.shape[1] != width:
        raise ShapeError(
            f"{where}: expected shape [B, {width}], the head's distribution parameters, "
            f"got {list(reference.shape)}; evaluate 'distribution' of the reference policy"
        )
    # Numbers on a device are not read.
    if not is_host(reference):
        return
    # A masked action's log-probability is -inf.
    bad = np.isnan(reference) | (reference == np.inf)
    if bad.any():
        raise NonFiniteError(
            f"{where}: expected a distribution at every step, got NaN or infinity at step "
            f"{first_row(bad)}; mend that step"
        )


def check_equal_weights(
    estimator: Estimator, batch: Batch, weights: Array, real: Array | None
) -> None:
    """Raise EstimatorError unless the steps of an episode that count weigh the same.

    Args:
        estimator: Whose terms depend on other steps of the episode.
        batch: The episodes.
        weights: [B] of the terms, at least 0.
        real: [B] above 0 at steps that count; None for all.
    """
    counts = np.ones(batch.num_steps, np.bool_) if real is None else real > 0
    largest = np.maximum.reduceat(np.where(counts, weights, 0), batch.episode_starts)
    unequal = counts & (weights != largest[batch.episode_of_step])
    if unequal.any():
        step = first_row(unequal)
        raise EstimatorError(
            f"{estimator.name} with the reduction {estimator.reduction.name}: expected equal weights "
            "of an episode's steps, whose terms depend on all of them, got "
            f"{weights[step]:.6g} at step {step} and {largest[batch.episode_of_step[step]]:.6g} in its "
            "episode; weigh whole episodes, or leave steps out with a mask"
        )


def check_all_finite(where: str, value: Array, noun: str = "step") -> None:
    """Raise NonFiniteError at the first row of an array that is NaN or infinite; a row is a `noun`."""
    row = row_not_finite(value)
    if row is not None:
        raise NonFiniteError(
            f"{where}: expected finite numbers, got {value[row]} at {noun} {row}; "
            f"look at that {noun}'s observations, rewards and values"
        )


ensure_signals = instance_check(Signals, "pgcore.signals(policy, estimator, batch)", EstimatorError)
