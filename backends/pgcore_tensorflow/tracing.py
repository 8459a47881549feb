"""Signals and losses as arguments and results of `tf.function`, and in `tf.nest`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import tensorflow as tf

from pgcore.function.laid_out import LaidOutSignals
from pgcore.function.loss import Loss

__all__ = ["SignalsType", "register"]

TraceType: Any = tf.types.experimental.TraceType
Tensor: Any = tf.Tensor

# Layouts of signals with a type in memory: a training loop has few, and asks at each call.
KEPT = 1024


class SignalsType(TraceType):
    """The type of signals in `tf.function`: by part, the type of the tensor, and what is no tensor.

    `tf.function` compares the types of its arguments at each call, and traces anew for another one.
    """

    def __init__(
        self, values: Mapping[str, Any], weights: Any, real: Any, rest: tuple[Any, ...]
    ) -> None:
        """Make a type.

        Args:
            values: The type of each signal.
            weights: That of the weights.
            real: That of the mask; None without.
            rest: See `flattened`.
        """
        # In the order in which `tf.nest` takes dictionaries apart, which is that of a graph's inputs.
        self.values = dict(sorted(values.items()))
        self.weights, self.real, self.rest = weights, real, rest
        self.parts = [*self.values.values(), weights, *([] if real is None else [real])]
        self.number = hash((frozenset(self.values.items()), weights, real, rest))
        # A part of another kind, such as that of several devices, may be any number of tensors.
        self.plain = all(type(part) is tf.TensorSpec for part in self.parts)

    def __eq__(self, other: object) -> bool:
        """Whether signals of both are traced alike."""
        return self is other or (
            isinstance(other, SignalsType)
            and self.rest == other.rest
            and (self.values, self.weights, self.real) == (other.values, other.weights, other.real)
        )

    def __hash__(self) -> int:
        """Return the same number for equal types."""
        return self.number

    def __repr__(self) -> str:
        """Return the types of the parts."""
        return f"SignalsType({self.values}, weights={self.weights}, real={self.real})"

    def alike(self, other: Any) -> bool:
        """Whether another type has the same parts, of whatever shape."""
        return (
            isinstance(other, SignalsType)
            and self.rest == other.rest
            and self.values.keys() == other.values.keys()
            and (self.real is None) == (other.real is None)
        )

    def mapped(self, function: Callable[..., Any], *others: Any) -> tuple[Any, ...]:
        """Return the values, weights and mask that a function returns of those of some objects."""
        values = {
            name: function(part, *(other.values[name] for other in others))
            for name, part in self.values.items()
        }
        weights = function(self.weights, *(other.weights for other in others))
        real = None
        if self.real is not None:
            real = function(self.real, *(other.real for other in others))
        return values, weights, real

    def is_subtype_of(self, other: Any) -> bool:
        """Whether signals of this type are signals of the other one; lengths may be unknown there."""
        if self is other:
            return True
        if not self.alike(other):
            return False
        values, weights, real = self.mapped(lambda part, beyond: part.is_subtype_of(beyond), other)
        return all((*values.values(), weights, real is not False))

    def most_specific_common_supertype(self, others: Sequence[Any]) -> SignalsType | None:
        """Return the type of signals of all these types, or None where there is none."""
        if not all(self.alike(other) for other in others):
            return None
        values, weights, real = self.mapped(
            lambda part, *rest: part.most_specific_common_supertype(rest), *others
        )
        if None in (*values.values(), weights) or (real is None) != (self.real is None):
            return None
        return SignalsType(values, weights, real, self.rest)

    def placeholder_value(self, placeholder_context: Any) -> LaidOutSignals:
        """Return the signals that the function is traced with."""
        parts = self.mapped(lambda part: part.placeholder_value(placeholder_context))
        return restored(self.rest, parts)

    def to_tensors(self, value: LaidOutSignals) -> list[Any]:
        """Return the tensors of signals, in the order of `flatten`."""
        given = [*map(value.values.__getitem__, self.values), value.stored]
        if self.real is not None:
            given.append(value.real)
        if self.plain and all(isinstance(x, Tensor) for x in given):
            return given
        return [x for part, x in zip(self.parts, given, strict=True) for x in part.to_tensors(x)]

    def from_tensors(self, tensors: Iterator[Any]) -> LaidOutSignals:
        """Return signals of tensors in the order of `flatten`."""
        return restored(self.rest, self.mapped(lambda part: part.from_tensors(tensors)))

    def flatten(self) -> list[Any]:
        """Return the types of the tensors."""
        return [kind for part in self.parts for kind in part.flatten()]

    def cast(self, value: Any, casting_context: Any) -> LaidOutSignals:
        """Return signals as those of this type.

        Raises:
            TypeError: they are of another type.
        """
        if (
            not isinstance(value, LaidOutSignals)
            or self.rest != (value.arrays, value.rows)
            or self.values.keys() != value.values.keys()
            or (self.real is None) != (value.real is None)
        ):
            raise TypeError(
                f"tf.function: expected signals of {self!r}, got {value!r}; trace it anew"
            )
        parts = self.mapped(lambda part, x: part.cast(x, casting_context), value)
        return restored(self.rest, parts)


def type_of(signals: LaidOutSignals, context: Any) -> SignalsType:
    """Return the type of signals; see `tf.types.experimental.SupportsTracingProtocol`."""
    values, weights, real = signals.values, signals.stored, signals.real
    rest = (signals.arrays, signals.rows)
    parts = [*values.values(), weights] if real is None else [*values.values(), weights, real]
    if all(isinstance(x, Tensor) for x in parts):
        layout = tuple([(x.shape, x.dtype) for x in parts])
        return tensors_type(tuple(values), layout, rest)
    return made(tuple(values), [part_type(x, context) for x in parts], rest)


@lru_cache(KEPT)
def tensors_type(
    names: tuple[str, ...], layout: tuple[Any, ...], rest: tuple[Any, ...]
) -> SignalsType:
    """Return the type of signals of tensors; one object for equal ones, which compares sooner."""
    return made(names, [tf.TensorSpec(*part) for part in layout], rest)


def made(names: tuple[str, ...], kinds: Sequence[Any], rest: tuple[Any, ...]) -> SignalsType:
    """Return a type of the types of its parts: values, weights and the mask, if there is one."""
    weights, real = (*kinds[len(names) :], None)[:2]
    return SignalsType(dict(zip(names, kinds, strict=False)), weights, real, rest)


def part_type(x: Any, context: Any) -> Any:
    """Return the type of a part that may be a variable, of several devices, a type, or NumPy's."""
    if isinstance(x, tf.types.experimental.SupportsTracingProtocol):
        return x.__tf_tracing_type__(context)
    return tf.TensorSpec.from_tensor(tf.convert_to_tensor(x))


def flattened(signals: LaidOutSignals) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return what is the same for all graphs of signals, and their tensors; see `tf.nest`."""
    return (signals.arrays, signals.rows), (signals.values, signals.stored, signals.real)


def restored(rest: tuple[Any, ...], parts: tuple[Any, ...]) -> LaidOutSignals:
    """Return signals of the results of `flattened`."""
    values, weights, real = parts
    arrays, rows = rest
    return LaidOutSignals(values, weights, real, arrays, rows=rows)


def flattened_loss(loss: Loss) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return the estimator of a loss, and its tensors; see `flattened`."""
    return (loss.estimator,), (loss.loss, loss.terms, loss.arguments, loss.signals)


def restored_loss(rest: tuple[Any, ...], parts: tuple[Any, ...]) -> Loss:
    """Return a loss of the results of `flattened_loss`."""
    value, terms, arguments, signals = parts
    return Loss(value, terms, {}, arguments, signals, *rest)


def register() -> None:
    """Have `tf.nest` and `tf.function` take signals and losses apart."""
    signals: Any = LaidOutSignals
    signals.__tf_flatten__, signals.__tf_unflatten__ = flattened, staticmethod(restored)
    loss: Any = Loss
    loss.__tf_flatten__, loss.__tf_unflatten__ = flattened_loss, staticmethod(restored_loss)
    # `tf.function` asks here first, and needs a fifth of the time.
    signals.__tf_tracing_type__ = type_of
