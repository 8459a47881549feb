"""The definition of an estimator or a head as its own reference: derivatives in forward mode.

Surrogates, log-probabilities, entropies and KLs are formulas against `xp`. They run here on `Dual`
arrays, in any number system of the kit, so that closed forms, kernels and frameworks are compared
with the formula itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from pgcore.autodiff.fisher import ACTIONS, WEIGHTS, has_closed_form, quadrature
from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.heads import Head
from pgcore.interfaces.estimator import QUANTITIES, Estimator
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore_check.bounds.forward_mode import Dual, constant, forward_mode
from pgcore_check.bounds.numbers import numbers, plain, spread
from pgcore_check.proofs import reference_of
from pgcore_check.reference.head_form import HeadForm

__all__ = ["HeadDefinition", "head_definition", "head_form", "loss_cotangents"]

Number = Any  # an array of any number system of the kit
Lift = Callable[[Array], Number]


def loss_cotangents(
    surrogate: Surrogate, inputs: Mapping[str, Number], weights: Number
) -> dict[str, Number]:
    """Return [B, ...] derivatives of sum_t w_t surrogate_t in each quantity.

    A term depends on its own step or episode alone. Two parts of the batch are differentiated
    without each other, so that a formula that looks at the whole batch has other derivatives here.

    Args:
        surrogate: The estimator.
        inputs: The surrogate's quantities and signals by name.
        weights: [B] w, in the number system of the inputs.
    """
    middle = len(surrogate.weights) // 2
    if surrogate.estimator.sees_episodes:
        starts = np.flatnonzero(np.diff(np.asarray(inputs["episode"]), prepend=-1))
        middle = int(starts[len(starts) // 2])
    halves = [slice(0, middle), slice(middle, None)] if middle else [slice(None)]
    parts: list[dict[str, Number]] = []
    for half in halves:
        part = {name: value[half] for name, value in inputs.items()}
        parts.append(part_cotangents(surrogate.estimator, part, weights[half]))
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def part_cotangents(
    estimator: Estimator, inputs: Mapping[str, Number], weights: Number
) -> dict[str, Number]:
    """Return the derivatives of some steps' terms; see `loss_cotangents`."""
    steps = len(weights)
    names = [name for name in inputs if name in QUANTITIES]
    # A term depends on its own step alone, so that one direction moves all steps; where it depends
    # on its episode, each step is moved alone.
    moved = np.eye(steps)[:, :, None] if estimator.sees_episodes else np.ones((1, steps, 1))
    columns = [math.prod(inputs[name].shape[1:]) for name in names]
    unit = np.eye(sum(columns), dtype=np.longdouble)
    arguments: dict[str, Any] = {}
    for name, value in inputs.items():
        # Integers, such as the numbers of episodes, stay as they are.
        arguments[name] = constant(value) if plain(value).dtype.kind == "f" else value
    # [directions, B, all columns], a direction for each column, and for each step where it counts.
    slopes = (moved[:, None] * unit[None, :, None, :]).reshape(-1, steps, len(unit))
    places = dict(zip(names, np.split(np.arange(len(unit)), np.cumsum(columns)[:-1]), strict=True))
    for name, place in places.items():
        along = slopes[:, :, place].reshape(-1, *inputs[name].shape)
        arguments[name] = Dual(inputs[name], along)
    terms = estimator.surrogate(forward_mode, **arguments)
    weighed = spread(terms.slopes, (len(slopes), steps)) * weights
    by_column = weighed.sum(axis=1).reshape(steps, -1) if estimator.sees_episodes else weighed.T
    return {
        name: by_column[:, place].reshape(*inputs[name].shape) for name, place in places.items()
    }


class HeadDefinition(HeadForm):
    """See `HeadForm`: the head's own formulas, with a direction for each output and parameter."""

    def __init__(
        self,
        head: Head,
        outputs: Number,
        parameters: Mapping[str, Number],
        actions: Number,
        mask: Array | None,
    ) -> None:
        """Compute the distribution parameters.

        Args:
            head: The head.
            outputs: [B, outputs] of the network.
            parameters: By canonical name.
            actions: [B, ...], lifted where they are continuous.
            mask: [B, width] bool, or None.
        """
        self.head, self.mask = head, mask
        # Continuous actions are numbers to compute with, discrete ones are indices.
        self.actions: Any = actions if head.discrete else constant(actions)
        self.outputs = outputs
        self.values = {name: parameters[f"head.{name}"] for name in head.initial_parameters()}
        self.own: dict[str, Number] = {}
        self.distribution = self._distribution(self._directions())
        self._quantities: dict[str, Dual] = {}

    def log_prob(self) -> Number:
        """See `HeadForm.log_prob`."""
        log_prob = self.head.log_prob(forward_mode, self.distribution, self.actions)
        return self._keep("log_prob", log_prob)

    def log_probs(self) -> Number:
        """Return [B, A] log pi of every action, -inf where masked."""
        return self._keep("log_probs", self.distribution)

    def entropy(self) -> Number:
        """See `HeadForm.entropy`."""
        return self._keep("entropy", self.head.entropy(forward_mode, self.distribution))

    def kl(self, reference: Number) -> Number:
        """See `HeadForm.kl`."""
        kl = self.head.kl(forward_mode, constant(reference), self.distribution)
        return self._keep("kl", kl)

    def reverse_kl(self, reference: Number) -> Number:
        """See `HeadForm.reverse_kl`."""
        kl = self.head.kl(forward_mode, self.distribution, constant(reference))
        return self._keep("reverse_kl", kl)

    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """See `HeadForm.backward`."""
        pulled: list[tuple[Dual, Number]] = []
        d_outputs: Number = self.outputs * 0
        for name, cotangent in cotangents.items():
            if name in self._quantities:
                pulled.append((self._quantities[name], cotangent))
            # Action values are the network's outputs themselves, or the critic's.
            elif name == "action_values" and self.head.action_values:
                d_outputs = d_outputs + cotangent
            elif name == "action_value" and self.head.action_values:
                one_hot: Array = self.actions[:, None] == np.arange(self.head.outputs)
                d_outputs = d_outputs + one_hot * cotangent.reshape(-1, 1)
        return d_outputs + self._backward(pulled)

    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """See `HeadForm.fisher`: the head's own, or the sum over its quadrature."""
        # One direction: that of the tangent.
        moved = self._distribution({"": tangent} | {n: direction[f"head.{n}"] for n in self.values})
        if has_closed_form(self.head):
            product = self.head.fisher(numbers, moved.value, moved.slopes[0])
            return self._backward([(self.distribution, product * weights.reshape(-1, 1))])
        values = plain(self.distribution.value)
        summed = quadrature(self.head, values.astype(np.float64), np.dtype(np.float64))
        pulled: list[tuple[Dual, Number]] = []
        for k in range(summed[WEIGHTS].shape[1]):
            actions, probability = summed[ACTIONS][:, k], summed[WEIGHTS][:, k]
            if not self.head.discrete:
                actions = constant(actions.astype(np.longdouble))
            along = self.head.log_prob(forward_mode, moved, actions).slopes[0]
            # An action of probability 0 has no finite score.
            weight = np.where(probability > 0, along, 0) * probability * weights
            pulled.append((self.head.log_prob(forward_mode, self.distribution, actions), weight))
        return self._backward(pulled)

    def _keep(self, name: str, quantity: Dual) -> Number:
        """Keep a quantity for `backward`; return its values."""
        self._quantities[name] = quantity
        return quantity.value

    def _distribution(self, slopes: Mapping[str, Number]) -> Dual:
        """Return [B, width] distribution parameters.

        Args:
            slopes: [D, ...] derivatives of the outputs, by the name "", and of the head's own
                parameters; without the axis of directions where there is one.
        """
        moved: dict[str, Dual] = {}
        for name, value in {"": self.outputs, **self.values}.items():
            along = slopes[name]
            moved[name] = Dual(value, along if along.ndim > value.ndim else along[None])
        outputs = moved.pop("")
        return self.head.distribution(forward_mode, outputs, moved, self.mask)

    def _directions(self) -> dict[str, Array]:
        """Return [D, ...] a direction for each output of a step and each entry of a parameter."""
        steps, width = self.outputs.shape
        sizes = [width, *(math.prod(value.shape) for value in self.values.values())]
        unit = np.eye(sum(sizes), dtype=np.longdouble)
        first, *parts = np.split(unit, np.cumsum(sizes)[:-1], axis=1)
        directions = {"": np.repeat(first[:, None], steps, axis=1)}
        for (name, value), part in zip(self.values.items(), parts, strict=True):
            directions[name] = part.reshape(-1, *value.shape)
        return directions

    def _backward(self, pulled: Iterable[tuple[Dual, Number]]) -> Number:
        """Return [B, outputs] derivatives, and keep those of the head's own parameters.

        Args:
            pulled: [B, ...] quantities with the loss's derivatives in them.
        """
        steps, width = self.outputs.shape
        entries = sum(math.prod(value.shape) for value in self.values.values())
        total: Number = np.zeros((width + entries, steps), np.longdouble)
        for quantity, cotangent in pulled:
            products = quantity.slopes * cotangent
            total = total + (products if products.ndim == 2 else products.sum(axis=2))
        start = width
        for name, value in self.values.items():
            stop = start + math.prod(value.shape)
            self.own[name] = total[start:stop].sum(axis=1).reshape(*value.shape)
            start = stop
        return total[:width].T


def head_form(
    spec: PolicySpec,
    outputs: Number,
    parameters: Mapping[str, Number],
    batch: Batch,
    dtype: np.dtype[Any],
    lift: Lift,
) -> Any:
    """Return the reference implementation of a spec's head at some outputs, or its definition.

    Args:
        spec: The architecture.
        outputs: [B, outputs] of the network.
        parameters: By canonical name, in the number system of the outputs.
        batch: The steps.
        dtype: The policy's dtype, to which actions are cast.
        lift: From NumPy arrays to the number system of the outputs.
    """
    head = spec.head
    form = reference_of(type(head))
    if form is None:
        return head_definition(head, outputs, parameters, batch, dtype, lift)
    if head.discrete:
        return form(head, outputs, batch.actions, batch.action_mask)
    return form(head, outputs, parameters, lift(batch.actions.astype(dtype)))


def head_definition(
    head: Head,
    outputs: Number,
    parameters: Mapping[str, Number],
    batch: Batch,
    dtype: np.dtype[Any],
    lift: Lift,
) -> HeadDefinition:
    """Return a head's definition at some outputs; see `head_form`."""
    actions = batch.actions if head.discrete else lift(batch.actions.astype(dtype))
    return HeadDefinition(head, outputs, parameters, actions, batch.action_mask)
