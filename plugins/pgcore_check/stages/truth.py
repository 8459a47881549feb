"""What every backend is compared with on one case, stage by stage, computed once for all of them.

A stage is given what the stage before it should have been, not what a backend made of it, so a difference shows where it arises.
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
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.parameters import Layout
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.interfaces.signals import Signals
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array
from pgcore.xp.numpy import host
from pgcore_check.bounds.agreement import allowance, powered
from pgcore_check.bounds.running_error import bounded_in, choices
from pgcore_check.reference import reference
from pgcore_check.reference.estimator_form import estimator_form
from pgcore_check.reference.lifted import Lifted, rounded

__all__ = ["STAGES", "Expected", "Truth"]

# In the order of computation. Steps are those of the optimizer, each on a new gradient of the same batch.
STAGES = (
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

# How often the way of the parameters is gone once more with every rounding as large as it may be.
PERTURBED = 3

# Standard deviation of what policy and critic have moved by since the signals of `EstimatorForm.earlier`.
MOVED = 0.3

# Of an optimizer's update, as many as the longest formula has.
OPERATIONS = 12


@dataclass(frozen=True, slots=True)
class Expected:
    """What one array must be.

    Attributes:
        exact: Its values in extended precision.
        allowed: u e for each.
    """

    exact: Array
    allowed: Array


class Truth:
    """The reference for one policy, estimator and batch.

    Attributes:
        spec: The architecture.
        parameters: In the dtype that is compared, by canonical name.
        estimator: Which loss.
        batch: The steps.
        optimizer: The formula of the steps.
        dtype: NumPy's float32 or float64.
        steps: After how many optimizer steps to look.
        max_norm: What gradients are clipped to: half the first one's norm, so that every clipping shows.
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
        """Keep all; nothing is computed before it is asked for."""
        self.spec, self.parameters, self.estimator, self.batch = (
            spec,
            dict(parameters),
            estimator,
            batch,
        )
        self.optimizer, self.steps = optimizer, steps
        self.dtype: np.dtype[Any] = next(iter(self.parameters.values())).dtype
        self._nearest = np.inf

    @cached_property
    def given(self) -> Signals:
        """The signals that all stages after the first are given: the exact ones, rounded; the estimator's own where no form says more."""
        if self._form is None:
            return self._own_signals()
        values = {
            name: expected.exact.astype(self.dtype) for name, expected in self.signals.items()
        }
        weights = values.pop("weights")
        for name in (name for name in self._form.earlier if name in values):
            moved = MOVED * np.random.default_rng(0).standard_normal(values[name].shape)
            values[name] += moved.astype(self.dtype)
        if self.estimator.sees_episodes:
            values["episode"] = self.batch.episode_of_step
        return Signals(values, weights, padded=self.batch.step_weights is not None)

    @cached_property
    def surrogate(self) -> Surrogate:
        """What is differentiated."""
        return Surrogate(self.spec, self.estimator, self.batch, self.given)

    @cached_property
    def signals(self) -> dict[str, Expected]:
        """Signals and weights by name; empty for an estimator that the kit has no form of. Padding's rows mean nothing."""
        with self._choosing():
            exact, bound = (
                {} if self._form is None else self._signals(lift) for lift in self._lifts
            )
        return self._expected(exact, bound)

    @property
    def real(self) -> Array:
        """[B] bool. Which steps are no padding."""
        return self.batch.episode_weights[self.batch.episode_of_step] > 0

    @cached_property
    def finalised(self) -> dict[str, Expected]:
        """The given signals as the surrogate is to see them."""
        if self._form is None:
            return {}
        padding = self.given.weights if self.given.padded else None
        with self._choosing():
            found = [
                self._form.finalise(
                    {name: lift(value) for name, value in self.given.values.items()}, padding
                )
                for lift in self._lifts
            ]
        changed = [
            name
            for name, value in self.surrogate.values.items()
            if value is not self.given.values[name]
        ]
        return self._expected(*({name: rounded(each[name]) for name in changed} for each in found))

    @cached_property
    def quantities(self) -> dict[str, Expected]:
        """The quantities that the surrogate is given, by name."""
        return self._expected(*(named for _, named in self._terms))

    @cached_property
    def terms(self) -> dict[str, Expected]:
        """The surrogate's terms."""
        return self._expected(*({"term": terms} for terms, _ in self._terms))

    @cached_property
    def gradient(self) -> dict[str, Expected]:
        """The gradient by canonical parameter name."""
        return self._expected(*self._gradients)

    @cached_property
    def overflows(self) -> bool:
        """Whether the gradient is beyond the dtype's range: a ratio of extreme policies can be, and then there is nothing to compare."""
        with np.errstate(over="ignore"):
            return not all(
                np.isfinite(expected.exact.astype(self.dtype)).all()
                for expected in self.gradient.values()
            )

    @cached_property
    def power(self) -> float:
        """The share of the gradient's components that have power, of those that are not 0; see `pgcore_check.bounds.agreement.POWER`."""
        if self.overflows:
            return 0.0
        counts = [powered(each.exact, each.allowed, self.dtype) for each in self.gradient.values()]
        return sum(seen for seen, _ in counts) / max(sum(count for _, count in counts), 1)

    @cached_property
    def nearest(self) -> float:
        """How far the nearest choice of a formula is from its kink, in units of roundoff; see `pgcore_check.bounds.running_error.choices`."""
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
        """[D] what the Fisher information is multiplied by: a vector of the dtype's numbers, in canonical order."""
        size = sum(value.size for value in self.parameters.values())
        return np.random.default_rng(1).standard_normal(size).astype(self.dtype)

    @cached_property
    def fisher(self) -> dict[str, Expected]:
        """The Fisher-vector product by canonical parameter name; empty where it is beyond the dtype's range."""
        with np.errstate(over="ignore", invalid="ignore"):
            exact, bound = (
                self.split(
                    reference.fisher_vector_product(
                        self.spec, self.parameters, self.batch, self.direction, lift
                    )
                )
                for lift in self._lifts
            )
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
        return (
            tuple(step for step in self.steps if all(step in walk for walk in self._walks))
            if self.steps
            else ()
        )

    def after(self, steps: int) -> dict[str, Expected]:
        """Return the parameters after some optimizer steps, each on the gradient of the same surrogate where the last one led.

        What is allowed is as far as other ways lead on which every rounding is as large as the bound says, of a sign drawn for each entry.
        """
        exact, *others = self._walks
        found: dict[str, Expected] = {}
        for name, value in exact[steps].items():
            off = max(np.abs(other[steps][name] - value).max() for other in others)
            # Three ways can by chance all end nearby; one step's own rounding is the least that is allowed.
            found[name] = Expected(
                value, np.maximum(off, self._rounding(value, self.parameters[name]))
            )
        return found

    def split(self, vector: Any) -> dict[str, Any]:
        """Return arrays by name from a [D] vector in canonical order."""
        return self._layout.named(vector)

    @cached_property
    def _layout(self) -> Layout:
        return Layout(self.spec.parameter_shapes)

    @contextmanager
    def _choosing(self) -> Generator[None]:
        """Note how near to a kink the bounded arithmetic comes."""
        with choices() as near:
            yield
        self._nearest = min([self._nearest, *near])

    @property
    def _lifts(self) -> tuple[Any, Any]:
        return reference.extended, bounded_in(self.dtype)

    @cached_property
    def _form(self) -> Any:
        return estimator_form(self.estimator)

    def _own_signals(self) -> Signals:
        """Return what an estimator without a form says."""
        from pgcore.api import policy, signals

        made = policy(self.spec, backend="numpy", dtype=self.dtype.name)
        made.load(self.parameters)
        return signals(made, self.estimator, self.batch)

    def _lifted(self, parameters: Mapping[str, Array], lift: Any) -> Lifted:
        """Return the policy that the estimator's form asks."""
        return Lifted(self.spec, parameters, self.batch, lift)

    def _signals(self, lift: Any) -> dict[str, Any]:
        lifted = self._lifted(self.parameters, lift)
        found = self._form.signals(self.batch, lifted, lift) | {
            "weights": self._form.weights(self.batch, lift)
        }
        return {name: rounded(value) for name, value in found.items()}

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
        signals = {name: lift(value) for name, value in self.given.values.items()}
        lifted = self._lifted(parameters, lift)
        return self.split(self._form.combine(self.batch, lifted, signals, self.given.weights, lift))

    @cached_property
    def _walks(self) -> list[dict[int, dict[str, Array]]]:
        """The parameters after the steps that are looked at: exactly, and then perturbed."""
        rng = np.random.default_rng(0)
        return [self._walk(None), *(self._walk(rng) for _ in range(PERTURBED))]

    def _walk(self, rng: np.random.Generator | None) -> dict[int, dict[str, Array]]:
        found: dict[int, dict[str, Array]] = {}
        parameters = {name: reference.extended(value) for name, value in self.parameters.items()}
        slots = {
            name: dict.fromkeys(self.optimizer.slots, value * 0)
            for name, value in parameters.items()
        }
        # Equal steps round alike, so a way keeps its signs: errors that grow with the number of steps are honest.
        signs = {
            name: 0.0 if rng is None else rng.choice((-1.0, 1.0), value.shape)
            for name, value in parameters.items()
        }

        for step in range(1, max(self.steps) + 1):
            exact = self._gradient(parameters, reference.extended)
            if not _norm(exact) < np.sqrt(np.finfo(self.dtype).max):
                break  # minimising an unclipped ratio can run away
            gradient = {
                name: value + signs[name] * self.gradient[name].allowed
                for name, value in exact.items()
            }
            # Where every ratio is clipped the gradient is 0.
            factor = self.max_norm / max(_norm(gradient), self.max_norm)
            scalars = self.optimizer.scalars(step, self.optimizer.rate(step - 1))
            for name, value in parameters.items():
                moved, slots[name] = self.optimizer.update(
                    host, value, gradient[name] * factor, slots[name], *scalars
                )
                parameters[name] = moved + signs[name] * self._rounding(moved, value)
            if step in self.steps:
                found[step] = dict(parameters)
        return found

    def _rounding(self, moved: Array, start: Array) -> Array:
        """Return what rounding can add in one step: of the parameter once, of the step in each of the formula's operations."""
        return (
            np.finfo(self.dtype).eps
            / np.longdouble(2)
            * (np.abs(moved) + OPERATIONS * np.abs(moved - start))
        )

    def _expected(self, exact: Mapping[str, Any], bound: Mapping[str, Any]) -> dict[str, Expected]:
        return {
            name: Expected(np.asarray(exact[name]), allowance(bound[name], self.dtype))
            for name in exact
        }


def _norm(gradient: Mapping[str, Any]) -> Any:
    """Return the Euclidean norm, in whichever number system."""
    square: Any = sum((value * value).sum() for value in gradient.values())
    return np.sqrt(square)
