"""Rules of optimizers, such as update formulas, and the native state that a backend keeps for one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

from pgcore.errors import NonFiniteError, OptimizerError, PgcoreError
from pgcore.interfaces.copying import Copied
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.schedules import Schedule
from pgcore.validation.arrays import Array, first_not_finite
from pgcore.validation.fields import Checked, Positive, positive
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["BoundOptimizer", "LearningRate", "OptimizerSpec", "Rule", "StepReport", "check_step"]


def rate_or_schedule(
    where: str, value: object, error: type[PgcoreError] = OptimizerError
) -> float | Schedule:
    """See `pgcore.validation.fields`: a schedule as it is, a number above 0 as a float."""
    return value if isinstance(value, Schedule) else positive(where, value, error)


# The type of a field `learning_rate`, which declares this check.
LearningRate = Annotated[float | Schedule, rate_or_schedule]


class StepReport(NamedTuple):
    """The measurements of a trust region's step; a refused one leaves every parameter to the bit."""

    accepted: bool  # whether the step was taken
    kl: float  # mean KL(policy before, policy after) over the batch's real steps, nats
    length: float  # Euclidean length of the step in the policy's parameters
    step_size: float  # factor of the natural gradient, or of the gradient without a metric
    improvement: float  # fall of the surrogate's loss, in its unit
    expected: float  # fall of a linear loss
    backtracks: int  # the line search's number of shorter steps
    iterations: int  # of conjugate gradients
    residual: float  # theirs, relative to the gradient's norm
    converged: bool  # whether the residual is within the tolerance

    @property
    def metrics(self) -> dict[str, float]:
        """The figures to log, by name."""
        return {
            "step_accepted": float(self.accepted),
            "step_kl": self.kl,
            "step_size": self.step_size,
            "step_length": self.length,
            "step_improvement": self.improvement,
            "line_search_steps": float(self.backtracks),
            "cg_iterations": float(self.iterations),
            "cg_residual": self.residual,
        }


class BoundOptimizer(Copied, ABC):
    """An optimizer's native state for one policy; made by a backend.

    Attributes:
        skipped: Number of steps that the device left out, once that was read.
    """

    skipped: int = 0

    @abstractmethod
    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """Update slots and parameters with the numbers of `OptimizerSpec.scalars`.

        Raises:
            NonFiniteError: see `check_step`; parameters and slots stay as they were.
        """

    @abstractmethod
    def slots(self) -> dict[str, dict[str, Array]]:
        """Return slot name to parameter name to array, which the caller owns."""

    @abstractmethod
    def load(self, slots: Mapping[str, Mapping[str, Array]]) -> None:
        """Replace what `slots` returns."""


class Rule(Checked, ABC):
    """An `Optimizer`'s way to step: an update formula or a trust region."""

    registered_as = "optimizers"  # the kind
    name: ClassVar[str]  # the registered one
    slots: ClassVar[tuple[str, ...]] = ()  # arrays kept for each of `slot_parameters`, 0 at first
    whole_batch: ClassVar[bool] = False  # whether a step takes a batch once, not by minibatches
    field_error = OptimizerError

    @abstractmethod
    def bind(self, policy: Any) -> BoundOptimizer:
        """Return the state for one policy."""

    @abstractmethod
    def step(
        self, bound: BoundOptimizer, gradient: Gradient, steps_taken: int
    ) -> StepReport | None:
        """Take a step, and return its report where the rule measures one.

        Args:
            bound: The result of `bind`.
            gradient: Of the same policy.
            steps_taken: The number of earlier steps.
        """

    def slot_parameters(self, policy: Any) -> tuple[str, ...]:
        """Return the names of the parameters that have slots: all."""
        return tuple(policy.spec.parameter_shapes)


@dataclass(frozen=True)
class OptimizerSpec(Rule):
    """A first-order optimizer's hyper-parameters and its update formula.

    Attributes:
        learning_rate: A positive number, or a schedule.
        max_grad_norm: The c of `Gradient.clipped`, before the update; None leaves the gradient.
    """

    # Adam's default in Kingma and Ba 2015, algorithm 1.
    learning_rate: LearningRate = 1e-3
    max_grad_norm: Positive | None = None

    def scalars(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """Return the double-precision numbers of one step that a compiled `update` gets.

        Args:
            step: Counted from 1, for bias correction.
            learning_rate: This step's.
        """
        return (learning_rate,)

    @abstractmethod
    def update(
        self,
        xp: ArrayNamespace,
        parameter: Native,
        gradient: Native,
        slots: Mapping[str, Native],
        *scalars: Native,
    ) -> tuple[Native, dict[str, Native]]:
        """Return the new parameter and the new slots.

        Args:
            xp: The backend's array functions.
            parameter: Any shape, the policy's dtype.
            gradient: Of the same shape, after clipping.
            slots: By the names in `slots`, of the same shape.
            scalars: The result of `scalars`, as Python numbers or native ones.
        """

    def updated(
        self, xp: ArrayNamespace, parameter: Native, gradient: Native, slots: Any, *scalars: Native
    ) -> tuple[Native, dict[str, Native]]:
        """Return `update`'s result, for backends; OptimizerError where a slot is missing or new."""
        moved, changed = self.update(xp, parameter, gradient, slots, *scalars)
        if changed.keys() != slots.keys():
            raise OptimizerError(
                f"{self.name}.update: expected the new slots {sorted(slots)}, got "
                f"{sorted(changed)}; return one for each name in `slots`"
            )
        return moved, changed

    def rate(self, step: int) -> float:
        """Return the learning rate of step number `step`, counted from 0."""
        rate = self.learning_rate
        return rate(step) if isinstance(rate, Schedule) else rate

    def bind(self, policy: Any) -> BoundOptimizer:
        """See `Rule.bind`: the backend's."""
        return policy.optimizer_state(self)

    def step(self, bound: BoundOptimizer, gradient: Gradient, steps_taken: int) -> None:
        """See `Rule.step`; there is no report."""
        if self.max_grad_norm is not None:
            gradient = gradient.clipped(self.max_grad_norm)
        # `scalars` counts steps from 1, a schedule from 0.
        bound.step(gradient, self.scalars(steps_taken + 1, self.rate(steps_taken)))


def check_step(parameters: Mapping[str, Array], slots: Mapping[str, Mapping[str, Array]]) -> None:
    """Raise NonFiniteError, naming a parameter, unless the results of a step are finite.

    Backends call it where a sum over the results is not finite, before they take the results over.

    Args:
        parameters: The new ones by name.
        slots: The new ones by slot and parameter.
    """
    advice = "parameters and optimizer are unchanged, lower the learning rate"
    if (name := first_not_finite(parameters)) is None:
        # A slot that overflowed would stop its parameter for good, without a sign of it.
        overflowed = {slot: first_not_finite(values) for slot, values in slots.items()}
        slot = next((slot for slot, name in overflowed.items() if name is not None), None)
        if slot is None:
            return
        name = f"the {slot} of {overflowed[slot]}"
        advice = "parameters and optimizer are unchanged, clip the gradient by max_grad_norm"
    raise NonFiniteError(
        f"Optimizer.step: expected finite numbers after the step, got NaN or infinity in {name}; "
        f"{advice}"
    )
