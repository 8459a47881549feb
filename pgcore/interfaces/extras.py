"""Extras: the arrays beside a batch's own fields that an estimator or a reduction declares."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.episodes import Episodes
from pgcore.errors import BatchError, EstimatorError, ShapeError
from pgcore.validation.arrays import Array, check_finite, is_host
from pgcore.wording import shown

__all__ = ["Example", "Extra", "check_extras", "declared_extras", "used_extras"]

# From a batch, the extra's shape and a source of random numbers to an array; see `Extra.example`.
Example = Callable[[Batch, tuple[int, ...], np.random.Generator], Array]

FORM = re.compile(r"\[B((?:, (?:\d+|A|width))*)\] (float|integer|number|bool)")
KINDS = {"float": "f", "integer": "iu", "number": "iuf", "bool": "b"}  # NumPy's kinds of dtype


@dataclass(frozen=True)
class Extra:
    """An extra of a batch that an estimator or a reduction reads, declared in its `extras` by name.

    Attributes:
        form: Shape and numbers, such as "[B] float", "[B, A] float" or "[B, 3] integer". A is the
            number of actions, `width` that of distribution parameters. Entries are float, integer,
            number (either of the two) or bool.
        meaning: The quantity and its unit, for errors; may be left out.
        example: `example(batch, shape, rng)` returns one for `pgcore check` and `pgcore audit`, from
            a batch with log_probs. An audit's batch is one episode with each action in each state.
        optional: Whether its reader can do without it; then an example may be None.
        when: `when(reader)` returns whether the reader's options use the extra; None is always.
        finite: Whether infinity is refused.
        advice: What to do about a missing one.

    Raises:
        EstimatorError: an unknown form, or no example of an extra that is not optional.

    Example:
        >>> def teacher(batch, shape, rng):
        ...     return batch.log_probs + 0.3 * rng.standard_normal(shape)
        >>> pg.Extra("[B] float", "the teacher's log-probabilities, nats", teacher).shape(5, 2)
        (5,)
    """

    form: str
    meaning: str = ""
    example: Example | None = None
    optional: bool = False
    when: Callable[[Any], bool] | None = None
    finite: bool = True
    advice: str = "add it to the batch with Batch.with_extras"

    def __post_init__(self) -> None:
        """Check form and example."""
        if not isinstance(self.form, str) or not FORM.fullmatch(self.form):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise EstimatorError(
                "Extra.form: expected [B], [B, A], [B, width] or [B, 3], then float, integer, number "
                f"or bool, got {shown(self.form)}; write it as '[B] float'"
            )
        if self.example is None and not self.optional:
            raise EstimatorError(
                "Extra.example: expected a function of batch, shape and rng, got None; write one, "
                "or declare optional=True"
            )

    def shape(self, steps: int, width: int) -> tuple[int, ...]:
        """Return the shape for B steps of a head with that width."""
        sizes = re.findall(r", (\w+)", self.form)
        return (steps, *(int(size) if size.isdigit() else width for size in sizes))

    def check(self, where: str, array: Array | None, steps: int, width: int) -> None:
        """Raise BatchError or ShapeError unless an array is there and of the form."""
        shape, numbers = self.shape(steps, width), self.form.partition("] ")[2]
        label = ", ".join(["B", *map(str, shape[1:])])
        meaning = f", {self.meaning}," if self.meaning else ","
        rule = f"{where}: expected [{label}] {numbers}s{meaning} got"
        if array is None:
            raise BatchError(f"{rule} none; {self.advice}")
        got = f"{list(array.shape)} {array.dtype}"
        if array.shape != shape:
            raise ShapeError(f"{rule} {got} for {steps} steps; check how it was gathered")
        if array.dtype.kind not in KINDS[numbers]:
            raise BatchError(f"{rule} {got}; convert it first")
        if self.finite:
            check_finite(where, array)


def declared_extras(cls: type[Any]) -> dict[str, Extra]:
    """Return the extras of a class and its bases by name, or raise EstimatorError."""
    extras: dict[str, Extra] = {}
    for base in reversed(cls.__mro__):
        # A class's `extras` become those of its bases too, which would hide another base's.
        declared: Any = vars(base).get("_own_extras", vars(base).get("extras", {}))
        named = isinstance(cast("object", declared), Mapping)
        if not named or not all(isinstance(extra, Extra) for extra in declared.values()):
            raise EstimatorError(
                f"{cls.__name__}.extras: expected pgcore.Extra by name, got {declared!r}; "
                "write extras = {'name': pgcore.Extra('[B] float', ...)}"
            )
        extras |= declared
    return extras


def used_extras(declarer: Any) -> dict[str, Extra]:
    """Return the extras that an object with `extras` reads under its own options, by name."""
    extras: Mapping[str, Extra] = declarer.extras
    return {name: x for name, x in extras.items() if x.when is None or x.when(declarer)}


def check_extras(extras: Mapping[str, Extra], batch: Episodes, width: int) -> None:
    """Raise BatchError or ShapeError unless a batch has these extras, optional ones aside."""
    for name, extra in extras.items():
        if name in batch.extras or not extra.optional:
            array = unmasked(batch, batch.extras.get(name))
            where = f"{type(batch).__name__}.extras[{name!r}]"
            extra.check(where, array, batch.num_steps, width)


def unmasked(batch: Episodes, array: Array | None) -> Array | None:
    """Return an extra, with floats at steps of loss mask 0, which may be anything, at 0."""
    if array is None or batch.loss_mask is None or array.dtype.kind != "f" or not is_host(array):
        return array
    result = array.copy()
    result[~batch.loss_mask] = 0.0
    return result
