"""The reference for a policy whose network is adopted, and has no formula.

The network's outputs are taken as given, with a measured rounding error; everything after them is
computed in extended precision. The network's backward pass has no closed form: the loss's exact
derivatives in the outputs are carried back by differences of the network along directions.
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
from pgcore_check.reference.definition import head_form
from pgcore_check.reference.lifted import Lifted
from pgcore_check.stages.truth import Expected, Truth

__all__ = ["OwnTruth", "Slope"]

# Random directions along which each array of parameters is moved.
DIRECTIONS = 2

# The largest of three step sizes, each half the one before, for parameters of size 1: about the
# cube root of the roundoff, at which the errors of rounding and of truncation balance.
STEP = {"float32": 2.0**-8, "float64": 2.0**-17}

# The least size of a direction's entries, in the parameters' units; else they have the array's.
LEAST = 0.1


@dataclass(frozen=True, slots=True)
class Slope:
    """A derivative along one direction.

    Attributes:
        name: Name of the array of parameters that is moved, with the number of the direction.
        product: The gradient's product with the direction.
        off: Its distance from the difference quotient.
        allowed: The error bound of that quotient.
    """

    name: str
    product: float
    off: float
    allowed: float

    @property
    def ratio(self) -> float:
        """|off| / allowed, infinite for NaN."""
        ratio = abs(self.off) / self.allowed if self.off else 0.0
        return ratio if np.isfinite(ratio) else np.inf


class OwnTruth(Truth):
    """See `Truth`; the policy's network is run for its outputs.

    Nothing else may change the policy's parameters while a stage is computed.
    """

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
            SpecError: the policy's network cannot be run alone.
        """
        super().__init__(policy.spec, policy.parameters(), estimator, batch, optimizer, steps)
        if not isinstance(policy, AutodiffPolicy):
            raise SpecError(
                "check: expected a policy whose network can be asked for its outputs, "
                f"got {type(policy).__name__}; "
                "derive it from pgcore.autodiff.policy.AutodiffPolicy"
            )
        self.policy = policy
        # Outputs and their bounds, by the batch's id; holding the batch keeps its id from reuse.
        self._runs: dict[int, tuple[Batch, tuple[Array, ...], tuple[Array, ...]]] = {}

    @property
    def _current(self) -> Policy:
        """The policy itself: no backend can build an adopted network."""
        return self.policy

    @cached_property
    def overflows(self) -> bool:
        """False: a user's batch is not made to overflow; see `Truth.overflows`."""
        return False

    def network_outputs(self, batch: Batch, lift: Any) -> tuple[Any, Any]:
        """Return the network's outputs with their measured rounding error.

        Args:
            batch: The observations to run on.
            lift: From NumPy arrays to the number system of the result.

        Returns:
            [B, outputs] outputs, and [B, k] values or None without a critic.
        """
        exact, spreads = self._run(batch)
        unit = np.finfo(self.dtype).eps / np.longdouble(2)
        results: list[Any] = []
        for value, allowed in zip(exact, spreads, strict=True):
            lifted = lift(value)
            # Only the bounded number system has a place for the error.
            if isinstance(lifted, Bounded):
                lifted = Bounded(lifted.value, allowed / unit, lifted.floor)
            results.append(lifted)
        return results[0], results[1] if len(results) > 1 else None

    @property
    def _head_names(self) -> tuple[str, ...]:
        """The names of the head's parameters; a layer of the network may be called head too."""
        return tuple(f"head.{name}" for name in self.spec.head.initial_parameters())

    def head_form(self, batch: Batch, outputs: Any, lift: Any) -> Any:
        """Return the head's reference implementation at some outputs."""
        parameters = {name: lift(self.parameters[name]) for name in self._head_names}
        return head_form(self.spec, outputs, parameters, batch, self.dtype, lift)

    def slopes(self, gradient: Mapping[str, Array]) -> Iterator[Slope]:
        """Yield each array's derivatives along directions, beside the loss's difference quotients.

        The policy's parameters are moved and restored.
        """
        _, inputs, head = self._stages[0]
        cotangents = reference.step_cotangents(self.surrogate, inputs, reference.extended)
        yield from self._slopes(gradient, head, cotangents)

    def score_slopes(self) -> Iterator[Slope]:
        """Yield the same for the scores, with random weights of the episodes; see `slopes`."""
        weights = np.random.default_rng(1).standard_normal(self.batch.num_episodes)
        scores = self.policy.episode_scores(self.batch)
        weighed = self.split(weights.astype(np.longdouble) @ scores)
        per_step = weights[self.batch.episode_of_step].astype(np.longdouble)
        yield from self._slopes(weighed, self._stages[0][2], {"log_prob": per_step})

    @cached_property
    def head_gradient(self) -> dict[str, Expected]:
        """The derivatives in the head's parameters, which do not pass through the network."""
        sides: list[dict[str, Any]] = []
        for (_, inputs, head), lift in zip(self._stages, self._lifts, strict=True):
            head.backward(reference.step_cotangents(self.surrogate, inputs, lift))
            arrays = {f"head.{name}": value for name, value in head.own.items()}
            sides.append({name: arrays[name] for name in self.parameters if name in arrays})
        return self._expected(*sides)

    def combined(self) -> dict[str, Expected]:
        """Return the gradient of an estimator that weighs scores, from the policy's scores."""
        return self._expected(*(self._gradient(self.parameters, lift) for lift in self._lifts))

    def take(self, gradient: Mapping[str, Array]) -> None:
        """Set the policy's gradient, with which the later stages begin."""
        self._policy_gradient = dict(gradient)

    def walk(self) -> Callable[[Mapping[str, Array]], dict[str, Expected]]:
        """Return a function that takes one optimizer step after another.

        Each call takes a gradient and returns the expected parameters after its step.
        """
        lift = self._lifts[1]
        parameters = {name: lift(value) for name, value in self.parameters.items()}
        slots = {
            name: dict.fromkeys(self.optimizer.slots, lift(value * 0))
            for name, value in self.parameters.items()
        }
        count = 0

        def step(gradient: Mapping[str, Array]) -> dict[str, Expected]:
            nonlocal count
            lifted = {name: lift(value) for name, value in gradient.items()}
            norm = np.sqrt(sum((value * value).sum() for value in lifted.values()))
            scalars = self.optimizer.scalars(count + 1, self.optimizer.rate(count))
            count += 1
            for name, value in lifted.items():
                clipped = value * self.max_norm / norm if norm > self.max_norm else value
                parameters[name], slots[name] = self.optimizer.update(
                    host, parameters[name], clipped, slots[name], *scalars
                )
            exact = {name: parameter.value for name, parameter in parameters.items()}
            return self._expected(exact, parameters)

        return step

    def _slopes(
        self, gradient: Mapping[str, Array], head: Any, cotangents: Mapping[str, Any]
    ) -> Iterator[Slope]:
        """Yield the slopes of a loss whose derivatives in the quantities are the cotangents."""
        d_outputs = head.backward(cotangents)
        d_values = reference.critic_cotangents(self.spec, cotangents, self.batch)
        derivatives = (d_outputs,) if d_values is None else (d_outputs, d_values)

        # Linear in the outputs, so that its only curvature is the network's. A loss without the
        # critic reads no values.
        def loss(outputs: tuple[Array, ...]) -> Any:
            pairs = zip(derivatives, outputs, strict=False)
            return sum((derivative * output).sum() for derivative, output in pairs)

        # Rounding moves the loss by as much as perturbed inputs do, and by the sum's own rounding.
        exact, *perturbed = self._perturbed_runs(self.batch)
        pairs = zip(derivatives, exact, strict=False)
        size = sum(np.abs(derivative * output).sum() for derivative, output in pairs)
        spread_of_loss = max(abs(loss(outputs) - loss(exact)) for outputs in perturbed)
        noise = spread_of_loss + np.finfo(self.dtype).eps / 2 * size
        rng = np.random.default_rng(2)
        for name, value in self.parameters.items():
            if name in self._head_names:
                continue
            scale = max(float(np.sqrt(np.mean(np.square(value, dtype=np.float64)))), LEAST)
            for number in range(DIRECTIONS):
                direction = rng.standard_normal(value.shape) * scale
                label = f"{name}, direction {number}"
                yield self._slope(label, name, gradient[name], direction, loss, noise)

    def _slope(
        self,
        label: str,
        name: str,
        gradient: Array,
        direction: Array,
        loss: Callable[[tuple[Array, ...]], Any],
        noise: Any,
    ) -> Slope:
        """Compare a slope with central differences at three step sizes, extrapolated.

        The error bound sums three parts: the last change of the extrapolation, the rounding error
        of the loss over the step, and the change of the second difference, caused by a nearby kink.

        Args:
            label: The slope's name.
            name: The array of parameters that is moved.
            gradient: The loss's derivatives in it.
            direction: Its shape.
            loss: From the network's outputs.
            noise: The rounding error of the loss.
        """
        start, derivative = self.parameters[name], gradient.astype(np.longdouble)
        middle = loss(self._forward(self.parameters, self.batch))
        slopes: list[Any] = []
        bends: list[Any] = []
        steps = [STEP[self.dtype.name] / 2**half for half in range(3)]
        for size in steps:
            ends = [(start + sign * size * direction).astype(self.dtype) for sign in (1, -1)]
            up, down = (
                loss(self._forward(self.parameters | {name: end}, self.batch)) for end in ends
            )
            # The ends are rounded: the step that was taken is their difference.
            moved = (derivative * (ends[0].astype(np.longdouble) - ends[1])).sum()
            slopes.append((up - down - moved) / (2 * size))
            bends.append((up + down - 2 * middle) / (2 * size))
        # Richardson's extrapolation, once from each pair of neighbouring step sizes.
        coarse, fine = ((4 * slopes[i + 1] - slopes[i]) / 3 for i in range(2))
        bent = abs(2 * bends[2] - bends[1])
        product = (derivative * direction).sum()
        rounding = np.finfo(self.dtype).eps * np.sqrt(((derivative * direction) ** 2).sum())
        allowed = abs(fine - coarse) + 2 * bent + 2 * noise / steps[0] + rounding
        return Slope(label, float(product), float(fine), float(allowed))

    @cached_property
    def _stages(self) -> list[tuple[Any, dict[str, Any], Any]]:
        """The terms, the surrogate's inputs and the head, in each of the two number systems."""
        stages: list[tuple[Any, dict[str, Any], Any]] = []
        for lift in self._lifts:
            outputs, values = self.network_outputs(self.batch, lift)
            head = self.head_form(self.batch, outputs, lift)
            inputs = reference.surrogate_inputs(
                self.spec, self.surrogate, head, outputs, values, lift
            )
            stages.append((reference.terms(self.surrogate, inputs), inputs, head))
        return stages

    @cached_property
    def _terms(self) -> list[Any]:
        names = self.estimator.quantities
        return [
            (terms, {name: inputs[name] for name in names}) for terms, inputs, _ in self._stages
        ]

    @cached_property
    def _gradients(self) -> list[dict[str, Any]]:
        gradient = self._policy_gradient
        return [{name: lift(value) for name, value in gradient.items()} for lift in self._lifts]

    def _computed_signals(self) -> Signals:
        return api.signals(self.policy, self.estimator, self.batch)

    def _lifted(self, parameters: Mapping[str, Array], lift: Any) -> Lifted:
        return OwnLifted(self, lift)

    def _run(self, batch: Batch) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Return outputs and values, and the rounding error of each entry; run once for a batch."""
        if id(batch) not in self._runs:
            exact, *perturbed = self._perturbed_runs(batch)
            spreads = [
                spread(value, [outputs[i] for outputs in perturbed], self.dtype)
                for i, value in enumerate(exact)
            ]
            self._runs[id(batch)] = batch, exact, tuple(spreads)
        return self._runs[id(batch)][1:]

    def _perturbed_runs(self, batch: Batch) -> Iterator[tuple[Array, ...]]:
        """Yield outputs and values, then those of each perturbation of the inputs."""
        yield self._forward(self.parameters, batch)
        for number, parameters in enumerate(self.nudged):
            yield self._forward(parameters, nudged_batch(batch, self.dtype, number))

    @cached_property
    def nudged(self) -> list[dict[str, Array]]:
        """The parameters, each entry moved to a neighbour; see `nudged_parameters`."""
        return nudged_parameters(self.policy)

    def _forward(self, parameters: Mapping[str, Array], batch: Batch) -> tuple[Array, ...]:
        """Return [B, outputs] outputs, with [B, k] values if there is a critic, at parameters."""
        observations = batch.observations
        if observations.dtype.kind == "f":
            observations = observations.astype(self.dtype)
        self.policy.load(parameters)
        # Restored even where the user's network raises.
        try:
            found = self.policy.forward(observations)
        finally:
            self.policy.load(self.parameters)
        outputs, *values = (self.policy.to_numpy(x) for x in found if x is not None)
        return outputs, *(value.reshape(len(outputs), -1) for value in values)


class OwnLifted(Lifted):
    """See `Lifted`; outputs and scores are the policy's."""

    def __init__(self, truth: OwnTruth, lift: Any) -> None:
        """Keep both."""
        super().__init__(truth.spec, truth.parameters, truth.batch, lift)
        self.truth = truth

    def single_scores(self) -> Any:
        """See `Lifted.single_scores`; the rounding error of the policy's scores is measured."""
        truth, policy = self.truth, self.truth.policy
        exact = policy.episode_scores(self.batch.steps(slice(None)))
        perturbed: list[Array] = []
        for number, parameters in enumerate(truth.nudged):
            policy.load(parameters)
            batch = nudged_batch(self.batch, truth.dtype, number)
            perturbed.append(policy.episode_scores(batch.steps(slice(None))))
        policy.load(truth.parameters)
        lifted = self.lift(exact)
        if not isinstance(lifted, Bounded):
            return lifted
        unit = np.finfo(truth.dtype).eps / np.longdouble(2)
        return Bounded(lifted.value, spread(exact, perturbed, truth.dtype) / unit, lifted.floor)

    def _quantity(self, name: str, batch: Batch) -> Any:
        outputs, values = self.truth.network_outputs(batch, self.lift)
        head = self.truth.head_form(batch, outputs, self.lift)
        return reference.named_quantities(self.spec, (name,), head, outputs, values, None)[name]
