"""The reference of one case, stage by stage, computed once for all backends.

A stage gets the exact result of the stage before it, not a backend's, so that a difference shows
where it arises.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.errors import SpecError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.evaluation import Evaluation
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.parameters import Layout
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.interfaces.signals import Signals
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore.xp.numpy import host
from pgcore_check.bounds.agreement import allowance, powered
from pgcore_check.bounds.running_error import bounded_in, choices, distortions, magnitudes
from pgcore_check.cases.builders import builder_of
from pgcore_check.reference import reference
from pgcore_check.reference.definition import loss_cotangents
from pgcore_check.reference.estimator_form import estimator_form
from pgcore_check.reference.lifted import Lifted, rounded
from pgcore_check.stages.kernel import HeadCase
from pgcore_check.stages.precision import coarse_number

__all__ = ["STAGES", "Expected", "Truth"]

# In the order of computation. Each optimizer step takes a new gradient of the same batch. The first
# two are of backends with closed forms: an estimator's cotangents, and the head's own derivatives.
STAGES = (
    "cotangents",
    "kernel",
    "signals",
    "quantities",
    "surrogate",
    "gradient",
    "clipped gradient",
    "Fisher product",
    "1 step",
    "10 steps",
    "100 steps",
)

# The factor between the largest number of a dtype and the largest that a case should have, so that
# sums and products on the way are in range.
ROOM = 2.0**32

# Perturbed walks of the parameters, with every rounding as large as its bound.
PERTURBED = 3
# Further ones, whose roundings have other signs at each step.
REDRAWN = 2

# Standard deviation of the noise on the signals of `EstimatorForm.earlier`, in the signal's units:
# the change of policy and critic since an epoch began.
MOVED = 0.3

# Rounded operations in an optimizer's update; the longest formula has as many.
OPERATIONS = 12


@dataclass(frozen=True, slots=True)
class Expected:
    """The reference of one array.

    Attributes:
        exact: Values in extended precision.
        allowed: The rounding-error bound u e of each entry, in the values' units.
    """

    exact: Array
    allowed: Array


class Truth:
    """The reference for one policy, estimator and batch.

    Attributes:
        spec: The architecture.
        parameters: By canonical name, in the dtype that is compared.
        estimator: Which loss.
        batch: The steps.
        optimizer: The formula of the steps.
        dtype: NumPy's float32 or float64.
        steps: The numbers of optimizer steps after which parameters are compared.
        products: Whether a Fisher-vector product is compared.
        max_norm: The norm to which gradients are clipped: half that of the first, so that clipping
            always acts.
    """

    def __init__(
        self,
        spec: PolicySpec,
        parameters: Mapping[str, Array],
        estimator: Estimator,
        batch: Batch,
        optimizer: OptimizerSpec,
        steps: tuple[int, ...] = (1, 10, 100),
    ) -> None:
        """Keep all; each stage is computed when it is first read."""
        self.spec, self.parameters = spec, dict(parameters)
        self.estimator, self.batch = estimator, batch
        self.optimizer, self.steps, self.products = optimizer, steps, True
        self.dtype: np.dtype[Any] = next(iter(self.parameters.values())).dtype
        self._nearest = np.inf
        # The largest number in the derivatives of the head, once `kernel` is computed.
        self._largest = 0.0

    @cached_property
    def shared_signals(self) -> Signals:
        """The signals that all stages after the first get: the exact ones, rounded.

        An estimator without a reference implementation gets those it computes.
        """
        if self._form is None:
            return self._computed_signals()
        values = {
            name: expected.exact.astype(self.dtype) for name, expected in self.signals.items()
        }
        weights = values.pop("weights")
        # Without noise every ratio would be 1 and no clipping would act.
        for name in self._form.earlier:
            if name in values:
                noise = MOVED * np.random.default_rng(0).standard_normal(values[name].shape)
                values[name] += noise.astype(self.dtype)
        if self.estimator.sees_episodes:
            values["episode"] = self.batch.episode_of_step
        return Signals(values, weights, padded=self.batch.step_weights is not None)

    @cached_property
    def surrogate(self) -> Surrogate:
        """The surrogate at the shared signals."""
        return Surrogate(self.spec, self.estimator, self.batch, self.shared_signals)

    @cached_property
    def signals(self) -> dict[str, Expected]:
        """Signals and weights by name; empty without a reference implementation.

        Rows of padding mean nothing.
        """
        if self._form is None:
            return {}
        with self._choosing():
            exact, bound = (self._signals(lift) for lift in self._lifts)
        return self._expected(exact, bound)

    @property
    def real(self) -> Array:
        """[B] bool. Whether a step is no padding."""
        return self.batch.episode_weights[self.batch.episode_of_step] > 0

    @cached_property
    def finalised(self) -> dict[str, Expected]:
        """The shared signals that the estimator finalises, by name."""
        if self._form is None:
            return {}
        signals = self.shared_signals
        # The signals that `finalise` leaves alone are the same objects.
        values = self.surrogate.values
        changed = [name for name in values if values[name] is not signals.values[name]]
        padding = signals.weights if signals.padded else None
        sides: list[dict[str, Any]] = []
        with self._choosing():
            for lift in self._lifts:
                lifted = {name: lift(value) for name, value in signals.values.items()}
                finalised = self._form.finalise(lifted, padding)
                sides.append({name: rounded(finalised[name]) for name in changed})
        return self._expected(*sides)

    @cached_property
    def arguments(self) -> dict[str, Array]:
        """The surrogate's keywords: quantities rounded to the dtype, and the shared signals."""
        rounded_quantities = {
            name: expected.exact.astype(self.dtype) for name, expected in self.quantities.items()
        }
        given = self.surrogate.values | rounded_quantities
        return {name: given[name] for name in self.estimator.keywords if name in given}

    @cached_property
    def cotangents(self) -> dict[str, Expected]:
        """The derivatives of the terms at `arguments`, by quantity; those of the surrogate itself.

        Empty for estimators without a loss, and where one is beyond the dtype's range.
        """
        if isinstance(self.estimator, ScoreEstimator):
            return {}
        ones = np.ones(self.batch.num_steps, self.dtype)
        sides: list[dict[str, Any]] = []
        with np.errstate(all="ignore"):
            for lift in self._lifts:
                inputs = self._lifted_arguments(lift)
                sides.append(loss_cotangents(self.surrogate, inputs, lift(ones)))
        return self._finite(self._expected(*sides))

    def _lifted_arguments(self, lift: Any) -> dict[str, Any]:
        """Return `arguments` in a number system; integers stay as they are."""
        return {
            name: lift(value) if value.dtype.kind == "f" else value
            for name, value in self.arguments.items()
        }

    @cached_property
    def function(self) -> dict[str, Expected]:
        """The terms, and the loss's derivatives by quantity, at the quantities rounded to the dtype.

        The rounding of finalised signals is in the bounds. Empty where `cotangents` are.
        """
        if not self.cotangents:
            return {}
        shared = self.shared_signals
        sides: list[dict[str, Any]] = []
        with np.errstate(all="ignore"):
            for lift in self._lifts:
                inputs = self._lifted_arguments(lift)
                if self._form is not None:
                    lifted = {name: lift(value) for name, value in shared.values.items()}
                    padding = shared.weights if shared.padded else None
                    finalised = self._form.finalise(lifted, padding)
                    inputs |= {name: rounded(finalised[name]) for name in self.finalised}
                weights = lift(shared.weights)
                slopes = loss_cotangents(self.surrogate, inputs, weights)
                terms = reference.terms(self.surrogate, inputs)
                sides.append({"term": terms} | {f"d {name}": slopes[name] for name in slopes})
        return self._finite(self._expected(*sides))

    @property
    def evaluation(self) -> Evaluation:
        """The current policy on the batch."""
        return Evaluation(self._current, self.batch)

    @cached_property
    def head_case(self) -> HeadCase:
        """The head's quantities at the network's outputs, rounded to the dtype."""
        outputs = reference.outputs(self.spec, self.parameters, self.batch).astype(self.dtype)
        anchor = self.surrogate.values.get("reference")
        return HeadCase(self.spec, self.estimator, self.batch, self.parameters, outputs, anchor)

    @cached_property
    def kernel(self) -> dict[str, Expected]:
        """The derivatives of `head_case`; empty where one is beyond the dtype's range."""
        with np.errstate(all="ignore"), magnitudes() as recorded:
            sides = [self.head_case.expected(lift) for lift in self._lifts]
            self._largest = max(recorded, default=0.0)
            return self._finite(self._expected(*sides))

    @cached_property
    def quantities(self) -> dict[str, Expected]:
        """The quantities that the surrogate reads, by name."""
        return self._expected(*(quantities for _, quantities in self._terms))

    @cached_property
    def terms(self) -> dict[str, Expected]:
        """The surrogate's terms under the name "term"."""
        return self._expected(*({"term": terms} for terms, _ in self._terms))

    @cached_property
    def gradient(self) -> dict[str, Expected]:
        """The gradient by canonical parameter name."""
        return self._expected(*self._gradients)

    @cached_property
    def overflows(self) -> bool:
        """Whether the gradient may be beyond the dtype's range, as a ratio of extreme policies can be.

        Then there is nothing to compare.
        """
        with np.errstate(over="ignore"):
            return not all(
                np.isfinite((np.abs(expected.exact) + expected.allowed).astype(self.dtype)).all()
                for expected in self.gradient.values()
            )

    @cached_property
    def within_range(self) -> bool:
        """Whether all stages up to the gradient are well inside of the dtype's range.

        Masked actions have log-probabilities of -inf in any dtype.
        """
        # These two are empty where they are beyond the range, or where there are none.
        loss = not isinstance(self.estimator, ScoreEstimator)
        if (loss and not self.cotangents) or (self.head_case.names and not self.kernel):
            return False
        stages = (self.quantities, self.terms, self.cotangents, self.kernel, self.gradient)
        values = [expected.exact for stage in stages for expected in stage.values()]
        with np.errstate(all="ignore"):
            # Numbers on the way to a term, or to a derivative of the head, may be beyond it too.
            values.append(np.asarray(self.estimator.surrogate(host, **self.arguments)))
            limit = np.finfo(self.dtype).max / ROOM
            values.append(np.asarray(self._largest))
            sizes = [np.abs(np.where(value == -np.inf, 0, value)) for value in values]
            return all((size <= limit).all() for size in sizes)

    @cached_property
    def distortion(self) -> float:
        """The largest relative error of a nonlinear function's argument.

        Rounding-error bounds are of first order, and hold where this is small.
        """
        with distortions() as recorded:
            lift = self._lifts[1]
            surrogate = (self.spec, self.parameters, self.surrogate, self.batch, lift)
            with np.errstate(all="ignore"):
                reference.surrogate_terms(*surrogate)
        return max(recorded, default=0.0) * float(np.finfo(self.dtype).eps) / 2

    @cached_property
    def power(self) -> float:
        """The share of the gradient's nonzero components that have power.

        See `pgcore_check.bounds.agreement.POWER`.
        """
        if self.overflows:
            return 0.0
        seen, total = 0, 0
        for expected in self.gradient.values():
            with_power, nonzero = powered(expected.exact, expected.allowed, self.dtype)
            seen, total = seen + with_power, total + nonzero
        return seen / max(total, 1)

    @cached_property
    def nearest(self) -> float:
        """The distance of a formula's nearest choice from its kink, in units of roundoff.

        See `pgcore_check.bounds.running_error.choices`.
        """
        # Read for their side effect: these stages record the choices.
        _ = self.signals, self.finalised, self.gradient
        return float(self._nearest / (np.finfo(self.dtype).eps / 2))

    @cached_property
    def clipped(self) -> dict[str, Expected]:
        """The gradient, clipped to `max_norm`."""
        exact, bound = (
            {name: value * self.max_norm / _norm(gradient) for name, value in gradient.items()}
            for gradient in self._gradients
        )
        return self._expected(exact, bound)

    @cached_property
    def direction(self) -> Array:
        """[D] a random vector to multiply by the Fisher information, in canonical order."""
        size = sum(value.size for value in self.parameters.values())
        return np.random.default_rng(1).standard_normal(size).astype(self.dtype)

    @cached_property
    def fisher(self) -> dict[str, Expected]:
        """The Fisher-vector product by parameter name; empty without one, or beyond the dtype's range.

        A head that has neither `fisher` nor a quadrature has none.
        """
        if not self.products:
            return {}
        inputs = (self.spec, self.parameters, self.batch, self.direction)
        with np.errstate(over="ignore", invalid="ignore"):
            products = (reference.fisher_vector_product(*inputs, lift) for lift in self._lifts)
            try:
                exact, bound = (self.split(product) for product in products)
            except SpecError:
                return {}
            if not all(np.isfinite(value.astype(self.dtype)).all() for value in exact.values()):
                return {}
        return self._expected(exact, bound)

    @cached_property
    def max_norm(self) -> float:
        """See `Truth`."""
        return float(_norm(self._gradients[0])) / 2

    @cached_property
    def reached(self) -> tuple[int, ...]:
        """Those of `steps` that the reference can take within the dtype's range."""
        return tuple(step for step in self.steps if all(step in walk for walk in self._walks))

    def after(self, steps: int) -> dict[str, Expected]:
        """Return the parameters after some optimizer steps, each with a new gradient.

        The tolerance is the largest distance of the perturbed walks, on which every rounding is as
        large as its bound and has a random sign for each entry.
        """
        exact, *perturbed = self._walks
        expected: dict[str, Expected] = {}
        for name, value in exact[steps].items():
            off = max(np.abs(walk[steps][name] - value).max() for walk in perturbed)
            # Three walks can by chance all end nearby: one step's rounding is always allowed.
            least = self._rounding(value, self.parameters[name])
            expected[name] = Expected(value, np.maximum(off, least))
        return expected

    def split(self, vector: Any) -> dict[str, Any]:
        """Return arrays by name from a [D] vector in canonical order."""
        return self._layout.named(vector)

    @cached_property
    def _layout(self) -> Layout:
        return Layout(self.spec.parameter_shapes)

    @contextmanager
    def _choosing(self) -> Generator[None]:
        """Record the nearest distance from a kink that the bounded arithmetic compares."""
        with choices() as near:
            yield
        self._nearest = min([self._nearest, *near])

    @property
    def _lifts(self) -> tuple[Any, Any]:
        return reference.extended, bounded_in(self.dtype)

    @cached_property
    def _form(self) -> Any:
        return estimator_form(self.estimator)

    @cached_property
    def coarse(self) -> tuple[str, str] | None:
        """Where the estimator's own signals leave float64, and how; None where they do not.

        See `pgcore_check.stages.precision.coarse_number`. A reference implementation needs none.
        """
        if self._form is not None:
            return None
        return coarse_number(self.estimator, self.batch, self.evaluation)

    @property
    def _current(self) -> Policy:
        """A policy with the parameters, on a backend that can build it."""
        from pgcore.api import policy

        current = policy(self.spec, backend=builder_of(self.spec), dtype=self.dtype.name)
        current.load(self.parameters)
        return current

    def _computed_signals(self) -> Signals:
        """Return the signals that an estimator without a reference implementation computes."""
        from pgcore.api import signals

        return signals(self._current, self.estimator, self.batch)

    def _lifted(self, parameters: Mapping[str, Array], lift: Any) -> Lifted:
        """Return the policy that the estimator's reference implementation evaluates."""
        return Lifted(self.spec, parameters, self.batch, lift)

    def _signals(self, lift: Any) -> dict[str, Any]:
        lifted = self._lifted(self.parameters, lift)
        arrays = dict(self._form.signals(self.batch, lifted, lift))
        arrays["weights"] = self._form.weights(self.batch, lift)
        return {name: rounded(value) for name, value in arrays.items()}

    @cached_property
    def _terms(self) -> list[Any]:
        with np.errstate(over="ignore", invalid="ignore"):  # see `overflows`
            return [
                reference.surrogate_terms(
                    self.spec, self.parameters, self.surrogate, self.batch, lift
                )
                for lift in self._lifts
            ]

    @cached_property
    def _gradients(self) -> list[dict[str, Any]]:
        with self._choosing():
            return [self._gradient(self.parameters, lift) for lift in self._lifts]

    def _gradient(self, parameters: Mapping[str, Array], lift: Any) -> dict[str, Any]:
        if self._form is None or not isinstance(self.estimator, ScoreEstimator):
            with np.errstate(over="ignore", invalid="ignore"):  # see `overflows`
                return reference.gradient(self.spec, parameters, self.surrogate, self.batch, lift)
        # Estimators that weigh scores have no loss to differentiate.
        signals = {name: lift(value) for name, value in self.shared_signals.values.items()}
        lifted, weights = self._lifted(parameters, lift), self.shared_signals.weights
        return self.split(self._form.combine(self.batch, lifted, signals, weights, lift))

    @cached_property
    def _walks(self) -> list[dict[int, dict[str, Array]]]:
        """The exact walk of the parameters, then the perturbed ones, by number of steps."""
        rng = np.random.default_rng(0)
        kept = [self._walk(rng) for _ in range(PERTURBED)]
        return [self._walk(None), *kept, *(self._walk(rng, redraw=True) for _ in range(REDRAWN))]

    def _walk(
        self, rng: np.random.Generator | None, *, redraw: bool = False
    ) -> dict[int, dict[str, Array]]:
        """Return the parameters after the steps that are compared; `rng` draws signs of errors.

        Equal steps round alike: a walk that keeps its signs has errors that grow with the steps. A
        constant error moves the whole walk, though, and so excites no growth that begins late, as
        RMSprop's where a derivative comes near 0. Signs that are drawn anew do.
        """
        visited: dict[int, dict[str, Array]] = {}
        parameters: dict[str, Array] = {}
        slots: dict[str, Any] = {}
        signs: dict[str, Any] = {}
        for name, value in self.parameters.items():
            parameters[name] = reference.extended(value)
            slots[name] = dict.fromkeys(self.optimizer.slots, parameters[name] * 0)
            signs[name] = 0.0 if rng is None else rng.choice((-1.0, 1.0), value.shape)
        for step in range(1, max(self.steps) + 1):
            if rng is not None and redraw:
                signs = {n: rng.choice((-1.0, 1.0), x.shape) for n, x in self.parameters.items()}
            exact = self._gradient(parameters, reference.extended)
            # Minimising an unclipped ratio can run away.
            if not _norm(exact) < np.sqrt(np.finfo(self.dtype).max):
                break
            gradient = {
                name: value + signs[name] * self.gradient[name].allowed
                for name, value in exact.items()
            }
            # The gradient is 0 where every ratio is clipped: the norm cannot be divided by.
            factor = self.max_norm / max(_norm(gradient), self.max_norm)
            scalars = self.optimizer.scalars(step, self.optimizer.rate(step - 1))
            for name, value in parameters.items():
                moved, slots[name] = self.optimizer.update(
                    host, value, gradient[name] * factor, slots[name], *scalars
                )
                parameters[name] = moved + signs[name] * self._rounding(moved, value)
            if step in self.steps:
                visited[step] = dict(parameters)
        return visited

    def _rounding(self, moved: Array, start: Array) -> Array:
        """Return the rounding-error bound of one step, in the parameter's units.

        The parameter is rounded once, the step in each of the formula's operations.
        """
        unit = np.finfo(self.dtype).eps / np.longdouble(2)
        return unit * (np.abs(moved) + OPERATIONS * np.abs(moved - start))

    def _finite(self, expected: dict[str, Expected]) -> dict[str, Expected]:
        """Return arrays by name; none where one is beyond the dtype's range."""
        with np.errstate(over="ignore"):
            within = (np.isfinite(e.exact.astype(self.dtype)) for e in expected.values())
            return expected if all(part.all() for part in within) else {}

    def _expected(self, exact: Mapping[str, Any], bound: Mapping[str, Any]) -> dict[str, Expected]:
        """Return exact values with their bounds, by name."""
        return {
            name: Expected(np.asarray(exact[name]), allowance(bound[name], self.dtype))
            for name in exact
        }


def _norm(gradient: Mapping[str, Any]) -> Any:
    """Return the Euclidean norm, in the number system of the arrays."""
    square: Any = sum((value * value).sum() for value in gradient.values())
    return np.sqrt(square)
