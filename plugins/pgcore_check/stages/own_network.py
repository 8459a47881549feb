"""The reference for a network that the kit has no formula of: the user's own.

What the network says is taken from it, exact but for rounding, and everything after it from the closed forms in extended precision.
The way back through the network has no closed form: the loss's derivatives in what the network says, which are exact, are carried back by
differences of the network along directions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pgcore import api
from pgcore.autodiff.policy import AutodiffPolicy
from pgcore.data.batch import Batch
from pgcore.errors import SpecError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import Signals
from pgcore.validation.arrays import Array
from pgcore.xp.numpy import host
from pgcore_check.bounds.rounding import nudged_batch, nudged_parameters, spread
from pgcore_check.bounds.running_error import Bounded
from pgcore_check.reference import reference
from pgcore_check.reference.head_form import head_form
from pgcore_check.reference.lifted import Lifted
from pgcore_check.stages.truth import Expected, Truth

__all__ = ["OwnTruth", "Slope"]

# Along which every array of parameters is moved.
DIRECTIONS = 2

# Of the largest of three step sizes along a direction, each half the one before; beside parameters of size 1.
STEP = {"float32": 2.0**-8, "float64": 2.0**-17}

# A direction's entries are as large as the array's own, and at least this.
LEAST = 0.1


@dataclass(frozen=True, slots=True)
class Slope:
    """A derivative along one direction.

    Attributes:
        name: Of the array of parameters that is moved, with the number of the direction.
        found: The gradient's product with the direction.
        off: How far it is from the difference quotient.
        allowed: What that quotient may be off by.
    """

    name: str
    found: float
    off: float
    allowed: float

    @property
    def ratio(self) -> float:
        """|off| / allowed, infinite for NaN."""
        ratio = abs(self.off) / self.allowed if self.off else 0.0
        return ratio if np.isfinite(ratio) else np.inf


class OwnTruth(Truth):
    """See `Truth`; the policy is asked for what its network says, and must be left as it is while that is done."""

    def __init__(
        self,
        policy: Policy,
        estimator: Estimator,
        batch: Batch,
        optimizer: OptimizerSpec,
        steps: tuple[int, ...] = (1, 10),
    ) -> None:
        """Keep all.

        Raises:
            SpecError: the policy's network cannot be asked for its outputs.
        """
        super().__init__(policy.spec, policy.parameters(), estimator, batch, optimizer, steps)
        if not isinstance(policy, AutodiffPolicy):
            raise SpecError(
                f"check: expected a policy whose network can be asked for its outputs, got {type(policy).__name__}; "
                "derive it from pgcore.autodiff.policy.AutodiffPolicy"
            )
        self.policy = policy
        self._asked: dict[int, tuple[Batch, tuple[Array, ...], tuple[Array, ...]]] = {}

    @cached_property
    def overflows(self) -> bool:
        """See `Truth.overflows`; the user's own batch is not meant to."""
        return False

    def said(self, batch: Batch, lift: Any) -> tuple[Any, Any]:
        """Return [B, outputs] and [B, k] values or None, in a number system: the network's own, off by what rounding can do to it."""
        kept = self._asked.get(id(batch))
        if kept is None:
            exact, *others = self._said(batch)
            spreads = (
                spread(each, [other[i] for other in others], self.dtype)
                for i, each in enumerate(exact)
            )
            kept = self._asked[id(batch)] = batch, exact, tuple(spreads)
        _, exact, off = kept
        unit = np.finfo(self.dtype).eps / np.longdouble(2)
        found: list[Any] = []
        for value, allowed in zip(exact, off, strict=True):
            lifted = lift(value)
            found.append(
                Bounded(lifted.value, allowed / unit, lifted.floor)
                if isinstance(lifted, Bounded)
                else lifted
            )
        return found[0], found[1] if len(found) > 1 else None

    @property
    def _head_names(self) -> tuple[str, ...]:
        """The head's own parameters; a layer of the network may be called head too."""
        return tuple(f"head.{name}" for name in self.spec.head.initial_parameters())

    def head_form(self, batch: Batch, outputs: Any, lift: Any) -> Any:
        """Return the form of the head at outputs."""
        own = {name: lift(self.parameters[name]) for name in self._head_names}
        return head_form(self.spec, outputs, own, batch, self.dtype, lift)

    def slopes(self, found: Mapping[str, Array]) -> Iterator[Slope]:
        """Yield what each array of a gradient says along directions, beside the loss's difference quotients; moves the policy's parameters."""
        named, head = self._named[0][1:]
        cotangents = reference.step_cotangents(self.surrogate, named, reference.extended)
        yield from self._slopes(found, head, cotangents)

    def score_slopes(self) -> Iterator[Slope]:
        """Yield the same of the scores, episodes weighed at random; see `slopes`."""
        weights = np.random.default_rng(1).standard_normal(self.batch.num_episodes)
        scores = self.policy.episode_scores(self.batch)
        found = self.split(weights.astype(np.longdouble) @ scores)
        per_step = weights[self.batch.episode_of_step].astype(np.longdouble)
        yield from self._slopes(found, self._named[0][2], {"log_prob": per_step})

    @cached_property
    def own(self) -> dict[str, Expected]:
        """The derivatives in the head's own parameters, which no network takes part in."""
        found: list[dict[str, Any]] = []
        for (_, named, head), lift in zip(self._named, self._lifts, strict=True):
            head.backward(reference.step_cotangents(self.surrogate, named, lift))
            found.append({f"head.{name}": value for name, value in head.own.items()})
        names = [name for name in self.parameters if name in found[0]]
        return self._expected(*({name: each[name] for name in names} for each in found))

    def combined(self) -> dict[str, Expected]:
        """Return the gradient of an estimator that weighs scores, from the policy's own scores."""
        return self._expected(*(self._gradient(self.parameters, lift) for lift in self._lifts))

    def take(self, gradient: Mapping[str, Array]) -> None:
        """Go on from the policy's own gradient, which is what is clipped."""
        self._taken = dict(gradient)

    def walk(self) -> Callable[[Mapping[str, Array]], dict[str, Expected]]:
        """Return a function that takes one step after another, each with the gradient given, and returns where the parameters must be."""
        lift = self._lifts[1]
        parameters = {name: lift(value) for name, value in self.parameters.items()}
        slots = {
            name: dict.fromkeys(self.optimizer.slots, lift(value * 0))
            for name, value in self.parameters.items()
        }
        taken = 0

        def step(gradient: Mapping[str, Array]) -> dict[str, Expected]:
            nonlocal taken
            lifted = {name: lift(value) for name, value in gradient.items()}
            norm = np.sqrt(sum((value * value).sum() for value in lifted.values()))
            scalars = self.optimizer.scalars(taken + 1, self.optimizer.rate(taken))
            taken += 1
            for name, value in lifted.items():
                own = value * self.max_norm / norm if norm > self.max_norm else value
                parameters[name], slots[name] = self.optimizer.update(
                    host, parameters[name], own, slots[name], *scalars
                )
            return self._expected(
                {name: each.value for name, each in parameters.items()}, parameters
            )

        return step

    def _slopes(
        self, found: Mapping[str, Array], head: Any, cotangents: Mapping[str, Any]
    ) -> Iterator[Slope]:
        d_outputs = head.backward(cotangents)
        d_values = reference.critic_cotangents(self.spec, cotangents, self.batch)

        def loss(said: tuple[Array, ...]) -> Any:
            total = (d_outputs * said[0]).sum()
            return total if d_values is None else total + (d_values * said[1]).sum()

        first, *others = self._said(self.batch)
        size = np.abs(d_outputs * first[0]).sum() + (
            0 if d_values is None else np.abs(d_values * first[1]).sum()
        )
        noise = (
            max(abs(loss(other) - loss(first)) for other in others)
            + np.finfo(self.dtype).eps / 2 * size
        )
        rng = np.random.default_rng(2)
        for name, value in self.parameters.items():
            if name in self._head_names:
                continue
            size = max(float(np.sqrt(np.mean(np.square(value, dtype=np.float64)))), LEAST)
            for number in range(DIRECTIONS):
                direction = rng.standard_normal(value.shape) * size
                yield self._slope(
                    f"{name}, direction {number}", name, found[name], direction, loss, noise
                )

    def _slope(
        self,
        label: str,
        name: str,
        found: Array,
        direction: Array,
        loss: Callable[[tuple[Array, ...]], Any],
        noise: Any,
    ) -> Slope:
        """Compare a slope with central differences at three step sizes, extrapolated.

        What is allowed is what the extrapolation still changes by, what rounding does to the loss over the step, and what is left of the
        second difference, by which a kink of the network nearby shows.
        """
        start, derivative = self.parameters[name], found.astype(np.longdouble)
        middle = loss(self._ask(self.parameters, self.batch))
        slopes: list[Any] = []
        bends: list[Any] = []
        steps = [STEP[self.dtype.name] / 2**half for half in range(3)]
        for size in steps:
            ends = [(start + sign * size * direction).astype(self.dtype) for sign in (1, -1)]
            up, down = (loss(self._ask(self.parameters | {name: end}, self.batch)) for end in ends)
            moved = (
                derivative * (ends[0].astype(np.longdouble) - ends[1])
            ).sum()  # where rounding has led
            slopes.append((up - down - moved) / (2 * size))
            bends.append((up + down - 2 * middle) / (2 * size))
        coarse, fine = ((4 * slopes[i + 1] - slopes[i]) / 3 for i in range(2))
        bent = abs(2 * bends[2] - bends[1])
        along = (derivative * direction).sum()
        rounding = np.finfo(self.dtype).eps * np.sqrt(((derivative * direction) ** 2).sum())
        allowed = abs(fine - coarse) + 2 * bent + 2 * noise / steps[0] + rounding
        return Slope(label, float(along), float(fine), float(allowed))

    @cached_property
    def _named(self) -> list[tuple[Any, dict[str, Any], Any]]:
        """Terms, what the surrogate is given, and the head's form, in either number system."""
        found: list[tuple[Any, dict[str, Any], Any]] = []
        for lift in self._lifts:
            outputs, values = self.said(self.batch, lift)
            head = self.head_form(self.batch, outputs, lift)
            named = reference.surrogate_inputs(
                self.spec, self.surrogate, head, outputs, values, lift
            )
            found.append((reference.terms(self.surrogate, named), named, head))
        return found

    @cached_property
    def _terms(self) -> list[Any]:
        used = self.estimator.quantities
        return [(terms, {name: named[name] for name in used}) for terms, named, _ in self._named]

    @cached_property
    def _gradients(self) -> list[dict[str, Any]]:
        return [{name: lift(value) for name, value in self._taken.items()} for lift in self._lifts]

    def _own_signals(self) -> Signals:
        return api.signals(self.policy, self.estimator, self.batch)

    def _lifted(self, parameters: Mapping[str, Array], lift: Any) -> Lifted:
        return OwnLifted(self, lift)

    def _said(self, batch: Batch) -> Iterator[tuple[Array, ...]]:
        """Yield outputs and values, and again wherever rounding may lead."""
        yield self._ask(self.parameters, batch)
        for number, parameters in enumerate(self.nudged):
            yield self._ask(parameters, nudged_batch(batch, self.dtype, number))

    @cached_property
    def nudged(self) -> list[dict[str, Array]]:
        """The parameters, moved by rounding."""
        return nudged_parameters(self.policy)

    def _ask(self, parameters: Mapping[str, Array], batch: Batch) -> tuple[Array, ...]:
        """Return [B, outputs] outputs, and [B, k] values where there is a critic, at some parameters."""
        self.policy.load(parameters)
        try:
            given = batch.observations
            outputs, values = self.policy.forward(
                given.astype(self.dtype) if given.dtype.kind == "f" else given
            )
        finally:
            self.policy.load(self.parameters)
        return (outputs,) if values is None else (outputs, values.reshape(len(outputs), -1))


class OwnLifted(Lifted):
    """See `Lifted`; what a network says is asked of the policy."""

    def __init__(self, truth: OwnTruth, lift: Any) -> None:
        """Keep both."""
        super().__init__(truth.spec, truth.parameters, truth.batch, lift)
        self.truth = truth

    def single_scores(self) -> Any:
        """See `Lifted.single_scores`: the policy's own, off by what rounding can do to them."""
        truth, batch = self.truth, self.batch.steps(slice(None))
        policy = truth.policy
        exact = policy.episode_scores(batch)
        others: list[Array] = []
        for number, parameters in enumerate(truth.nudged):
            policy.load(parameters)
            others.append(
                policy.episode_scores(
                    nudged_batch(self.batch, truth.dtype, number).steps(slice(None))
                )
            )
        policy.load(truth.parameters)
        lifted = self.lift(exact)
        if not isinstance(lifted, Bounded):
            return lifted
        unit = np.finfo(truth.dtype).eps / np.longdouble(2)
        return Bounded(lifted.value, spread(exact, others, truth.dtype) / unit, lifted.floor)

    def _quantity(self, name: str, batch: Batch) -> Any:
        outputs, values = self.truth.said(batch, self.lift)
        head = self.truth.head_form(batch, outputs, self.lift)
        return reference.named_quantities(self.spec, (name,), head, outputs, values, None)[name]
