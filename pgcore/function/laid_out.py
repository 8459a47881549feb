"""Signals as `pgcore.loss` takes them: arrays of a framework, laid out as the episodes were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from pgcore.data.native import Arrays, host
from pgcore.errors import EstimatorError, ShapeError
from pgcore.interfaces.estimator import Estimator
from pgcore.validation.arrays import Array, numbers_at
from pgcore.xp.namespace import Native

__all__ = ["LaidOutSignals"]


@dataclass(init=False, eq=False, repr=False)
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
        stored: The weights, for code that does not change them.
        averaged: Whether each entry weighs 1 / entries, so that the loss is a mean. False also once
            the weights were read, since their reader may change them.
    """

    __slots__ = ("arrays", "averaged", "real", "rows", "stored", "values")

    values: dict[str, Native]
    weights: Native  # pyright: ignore[reportRedeclaration]
    real: Native
    arrays: Arrays
    rows: bool

    def __init__(
        self,
        values: dict[str, Native],
        weights: Native,
        real: Native,
        arrays: Arrays,
        *,
        rows: bool = False,
    ) -> None:
        """Hold the arrays; see the attributes."""
        self.values, self.stored, self.real = values, weights, real
        self.arrays, self.rows, self.averaged = arrays, rows, False

    @property
    def weights(self) -> Native:
        """See the attributes."""
        self.averaged = False
        return self.stored

    @weights.setter
    def weights(self, weights: Native) -> None:
        self.stored, self.averaged = weights, False

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy the arrays, which the copy may share."""
        self.averaged = False
        parts = (self.values, self.stored, self.real, self.arrays)
        return partial(LaidOutSignals, rows=self.rows), parts

    @property
    def shape(self) -> tuple[int, ...]:
        """The layout's."""
        return tuple(self.stored.shape)

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
        return self.scaled(part, self.count() / part.count())

    def part(self, index: Any) -> LaidOutSignals:
        """Return the signals of some entries as flat steps, with their weights in the whole loss.

        The losses of the parts of any partition add up to the whole, and so do their gradients; not
        under `normalise="minibatch"`, which normalises each.

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
        return self.scaled(part, self.episode_count() / part.episode_count())

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
            old, arrays = part.values["episode"], self.arrays
            above, mine = (
                arrays.cast(arrays.row_numbers(x), arrays.dtype(old))
                for x in (self.values["episode"], old)
            )
            row, beyond = arrays.reshape(mine, (-1, 1)), mine[-1:] + 1
            part.values["episode"] = arrays.xp.where(old > above[-1:], beyond, row)
        return part

    # What `pgcore.loss` reads.

    def check_quantities(self, quantities: Mapping[str, Native], per_action: Sequence[str]) -> None:
        """Raise unless all quantities fit the signals.

        Args:
            quantities: As they were passed.
            per_action: The names of those that have a number for each action.

        Raises:
            EstimatorError, ShapeError: see `pgcore.loss`.
        """
        arrays, layout, kind = self.arrays, self.stored.shape, self.stored.__class__
        device = arrays.device(self.stored)
        for name, value in quantities.items():
            if value.__class__ is not kind and not arrays.owns(value):
                raise EstimatorError(
                    f"loss {name}: expected an array of {arrays.name}, as the signals are, got "
                    f"{type(value).__name__}; make the episodes of the arrays of one framework"
                )
            place = arrays.device(value)
            if device != place and device and place:
                raise EstimatorError(
                    f"loss {name}: expected an array on {device}, where the signals are, got one on "
                    f"{place}; move one of them"
                )
            shape = value.shape
            laid_out = shape[:-1] if name in per_action else shape
            if laid_out != layout and not is_laid_out(tuple(laid_out), self.shape):
                expected = [*layout, "A"] if name in per_action else [*layout]
                raise ShapeError(
                    f"loss {name}: expected shape [{', '.join(map(str, expected))}], as the episodes "
                    f"are laid out, got {list(shape)}; pass one entry for each of theirs"
                )

    def takes_layout(
        self, estimator: Estimator, quantities: Mapping[str, Native], constants: Sequence[str]
    ) -> bool:
        """Whether the surrogate takes arrays of the layout; else of [B], which costs two copies."""
        axes = len(self.stored.shape)
        if axes == 1:
            return True
        if not (self.arrays.differentiates and estimator.elementwise):
            return False
        used = [self.values[name] for name in constants if name in self.values]
        return not [x for x in (*used, *quantities.values()) if len(x.shape) != axes]

    def fitted(
        self, quantities: Mapping[str, Native], per_action: Sequence[str], *, flat: bool
    ) -> tuple[dict[str, Native], dict[str, Native], Native, Native]:
        """Return values, quantities, weights and `real` in one dtype.

        Quantities are 0 where an entry is no step or does not count: a term that is multiplied by 0
        would have a derivative of NaN where it overflows.

        Args:
            quantities: See `check_quantities`.
            per_action: See `check_quantities`.
            flat: Whether the arrays are returned as [N, ...], not of the layout.
        """
        arrays, values, weights, real = self.arrays, self.values, self.stored, self.real
        dtype = "float32"
        if [x for x in quantities.values() if arrays.dtype(x) == "float64"]:
            dtype = "float64"
        if arrays.dtype(weights) != dtype:
            weights = arrays.cast(weights, dtype)
            values = {
                name: arrays.cast(value, dtype) if "float" in arrays.dtype(value) else value
                for name, value in values.items()
            }
        inputs: dict[str, Native] = {}
        for name, quantity in quantities.items():
            value = quantity if arrays.dtype(quantity) == dtype else arrays.cast(quantity, dtype)
            if real is not None:
                kept = real[..., None] if name in per_action else real
                value = arrays.xp.where(kept, value, 0.0)
            inputs[name] = value
        if flat:
            axes = len(weights.shape)
            values, inputs = (
                {name: arrays.reshape(x, (-1, *x.shape[axes:])) for name, x in of.items()}
                for of in (values, inputs)
            )
            weights = arrays.reshape(weights, (-1,))
            real = None if real is None else arrays.reshape(real, (-1,))
        return values, inputs, weights, real

    def _taken(self, index: Any, *, by_row: bool) -> LaidOutSignals:
        """Return the signals of some rows, or of some entries as flat steps."""
        arrays, axes = self.arrays, len(self.shape)
        if arrays.owns(index) and arrays.dtype(index) == "bool" and arrays.is_traced(index):
            raise EstimatorError(
                "signals: expected integers in traced code, where a mask's number of positions is "
                "unknown, got a mask; take the part outside, or pass positions"
            )
        if self._is_unread(index):
            check_positions(tuple(index.shape))
            if arrays.dtype(index) not in ("int32", "int64"):
                index = arrays.cast(index, "int32")  # torch takes uint8 for a mask
        else:
            numbers = whole_numbers(index, self.shape[0] if by_row else math.prod(self.shape))
            index = arrays.native(numbers, self.stored)

        def taken(value: Native) -> Native:
            if not by_row and axes > 1:
                value = arrays.reshape(value, (-1, *value.shape[axes:]))
            return arrays.rows(value, index)

        values = {name: taken(value) for name, value in self.values.items()}
        real, weights = None if self.real is None else taken(self.real), taken(self.stored)
        return LaidOutSignals(values, weights, real, arrays, rows=by_row)

    def _is_unread(self, index: Any) -> bool:
        """Whether an index is of the framework's integers on a device, or of traced code."""
        arrays = self.arrays
        if not arrays.owns(index) or "int" not in arrays.dtype(index):
            return False
        return arrays.resident(index) or arrays.is_traced(index)

    def scaled(self, part: LaidOutSignals, factor: Native) -> LaidOutSignals:
        """Return a part with its weights multiplied by the whole's number of entries over its own."""
        part.stored = part.stored * factor
        part.averaged = self.averaged and self.real is None
        return part

    def count(self) -> Native:
        """Return the number of steps that count, at least 1."""
        if self.real is None and None not in tuple(self.stored.shape):
            return math.prod(self.shape)
        xp = self.arrays.xp
        return xp.maximum(xp.sum(self.arrays.reshape(self._real_numbers(), (-1,)), 0), 1.0)

    def episode_count(self) -> Native:
        """Return the number of rows with a step that counts, at least 1."""
        if self.real is None and None not in tuple(self.stored.shape):
            return self.shape[0]
        xp, kind = self.arrays.xp, self.arrays.dtype(self.stored)
        steps = xp.sum(self._real_numbers(), 1)
        return xp.maximum(xp.sum(self.arrays.cast(steps > 0, kind), 0), 1.0)

    def _real_numbers(self) -> Native:
        """Return `real` as the weights' floats, for any number of steps."""
        if self.real is None:
            return self.arrays.xp.full_like(self.stored, 1.0)
        return self.arrays.cast(self.real, self.arrays.dtype(self.stored))


def is_laid_out(shape: tuple[int | None, ...], layout: tuple[int | None, ...]) -> bool:
    """Whether an array has the layout's shape; a graph for any number of steps has None for it."""
    pairs = zip(shape, layout, strict=False)
    return len(shape) == len(layout) and all(a == b or None in (a, b) for a, b in pairs)


def whole_numbers(index: Any, count: int) -> Array:
    """Return [n] positions in [0, count) of integers, a slice or a [count] bool mask.

    Raises:
        EstimatorError: the index is out of range, selects nothing or is not one-dimensional.
    """
    try:
        numbers = numbers_at(count, index if isinstance(index, slice) else host(index))
    except (IndexError, ValueError) as error:  # ValueError for rows of several lengths
        raise EstimatorError(
            f"signals: expected positions in [0, {count}), got others ({error}); check the index"
        ) from error
    check_positions(numbers.shape)
    return numbers


def check_positions(shape: tuple[int | None, ...]) -> None:
    """Raise EstimatorError unless an index of this shape is of one axis, and selects something."""
    if len(shape) != 1 or shape[0] == 0:
        raise EstimatorError(
            f"signals: expected one axis of at least 1 position, got an index of shape {[*shape]}; "
            "pass the positions of a minibatch"
        )
