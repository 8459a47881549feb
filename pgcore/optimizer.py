"""Optimizers: formulas as frozen data, and the handle that takes steps with them on any backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pgcore.arrays import Array
from pgcore.checks import Checked, Positive, number, positive
from pgcore.errors import OptimizerError, PgcoreError
from pgcore.gradient import Gradient
from pgcore.namespace import ArrayNamespace, Native
from pgcore.policy import Policy
from pgcore.schedules import ConstantSchedule, Schedule

if TYPE_CHECKING:
    from pgcore.trust_region import StepReport

__all__ = ["BoundOptimizer", "LearningRate", "Optimizer", "OptimizerSpec", "Rule"]


def rate_or_schedule(where: str, value: object, error: type[PgcoreError] = OptimizerError) -> float | Schedule:
    """Return a schedule as it is and a number as a float, or raise unless it is a number above 0."""
    return value if isinstance(value, Schedule) else positive(where, value, error)


LearningRate = Annotated[float | Schedule, rate_or_schedule]


class Rule(Checked, ABC):
    """What an `Optimizer` takes its steps by: an `OptimizerSpec`, or a `pgcore.trust_region.TrustRegionSpec`.

    Attributes:
        name: What the optimizer is registered as.
        slots: Names of the arrays that it keeps for the parameters in `slot_parameters`, all starting at 0.
        whole_batch: Whether a step is meant to have all of a batch, once, rather than one minibatch of many.
    """

    name: ClassVar[str]
    slots: ClassVar[tuple[str, ...]] = ()
    whole_batch: ClassVar[bool] = False
    field_error = OptimizerError

    @abstractmethod
    def bind(self, policy: Policy) -> BoundOptimizer:
        """Return the state for one policy."""

    @abstractmethod
    def step(self, bound: BoundOptimizer, gradient: Gradient, steps_taken: int) -> StepReport | None:
        """Take the step that comes after `steps_taken` others, and return what there is to say about it."""

    def slot_parameters(self, policy: Policy) -> tuple[str, ...]:
        """Return the names of the parameters that have slots: all."""
        return tuple(policy.spec.parameter_shapes)


@dataclass(frozen=True)
class OptimizerSpec(Rule):
    """A first-order optimizer's hyper-parameters and its update formula.

    Attributes:
        learning_rate: A positive number, or a schedule.
        max_grad_norm: Scale the gradient g to g * c / max(norm, c) with this c first, over all parameters; None leaves it.

    Raises:
        OptimizerError: the rate is neither a schedule nor a number above 0, or the norm is not above 0.
    """

    learning_rate: LearningRate = 1e-3
    max_grad_norm: Positive | None = None

    def bind(self, policy: Policy) -> BoundOptimizer:
        """See `Rule.bind`: the backend's."""
        return policy.backend.optimizer(self, policy)

    def step(self, bound: BoundOptimizer, gradient: Gradient, steps_taken: int) -> None:
        """See `Rule.step`; there is nothing to say."""
        if self.max_grad_norm is not None:
            gradient = gradient.clipped(self.max_grad_norm)
        bound.step(gradient, self.scalars(steps_taken + 1, self.rate(steps_taken)))

    def scalars(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """Return the numbers of one step that `update` needs: the learning rate, unless a formula has others.

        They are computed apart, in double precision, so that a backend can compile `update` once for all steps.

        Args:
            step: Counted from 1, for bias correction.
            learning_rate: This step's.
        """
        return (learning_rate,)

    @abstractmethod
    def update(
        self, xp: ArrayNamespace, parameter: Native, gradient: Native, slots: Mapping[str, Native], *scalars: Native
    ) -> tuple[Native, dict[str, Native]]:
        """Return the new parameter and the new slots.

        Args:
            xp: The backend's array functions.
            parameter: Any shape, the policy's dtype.
            gradient: Of the same shape, after clipping.
            slots: By the names in `slots`, of the same shape.
            scalars: What `scalars` returned, as Python numbers or as native ones.
        """

    def rate(self, step: int) -> float:
        """Return the learning rate of step number `step`, counted from 0."""
        schedule = (
            self.learning_rate if isinstance(self.learning_rate, Schedule) else ConstantSchedule(self.learning_rate)
        )
        return schedule(step)


class BoundOptimizer(ABC):
    """An optimizer's native state for one policy; made by a backend."""

    @abstractmethod
    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """Update the slots and the policy's parameters with the numbers of one step; see `OptimizerSpec.scalars`."""

    @abstractmethod
    def slots(self) -> dict[str, dict[str, Array]]:
        """Return slot name to parameter name to array, which the caller owns."""

    @abstractmethod
    def load(self, slots: Mapping[str, Mapping[str, Array]]) -> None:
        """Replace what `slots` returns."""


class Optimizer:
    """Takes steps with one spec on one policy; binds to the first policy it is given.

    Attributes:
        spec: The `Rule`: a formula, or a trust region, and its hyper-parameters.
        steps_taken: How many steps it has taken; one that a trust region refused is none.
    """

    def __init__(self, spec: Rule) -> None:
        """Keep the spec; nothing native exists before the first step."""
        self._rule = spec
        self.spec: Any = spec
        self.steps_taken = 0
        self._policy: Policy | None = None
        self._bound: BoundOptimizer | None = None

    def __repr__(self) -> str:
        """Return the spec and the number of steps."""
        return f"Optimizer({self.spec}, {self.steps_taken} steps taken)"

    def step(self, policy: Policy, gradient: Gradient) -> StepReport | None:
        """Move the policy's parameters against the gradient, in place.

        Returns:
            What a trust region has to say about its step, whether it was taken among other things; None of a first-order step.

        Raises:
            OptimizerError: the optimizer belongs to another policy, or the gradient does; or a trust region cannot be made of it.
            NonFiniteError: the gradient, or what a trust region makes of it, is NaN or infinite; the parameters stay untouched.
        """
        bound = self._bound_to(policy)
        if gradient.policy is not policy:
            raise OptimizerError(
                "Optimizer.step: expected a gradient of this policy, got one of another; compute it on the policy you step"
            )
        report = self._rule.step(bound, gradient, self.steps_taken)
        if report is None or report.accepted:
            self.steps_taken += 1
        return report

    def state(self, policy: Policy) -> dict[str, Array]:
        """Return the slots as `slot/parameter` to array, for a checkpoint."""
        return {
            f"{slot}/{name}": value
            for slot, values in self._bound_to(policy).slots().items()
            for name, value in values.items()
        }

    def load(self, policy: Policy, state: Mapping[str, Array], steps_taken: int) -> None:
        """Go on from what `state` returned after that many steps.

        Raises:
            OptimizerError: the state is not that of this spec and policy.
        """
        every, own = policy.spec.parameter_shapes, self._rule.slot_parameters(policy)
        shapes = {f"{slot}/{name}": every[name] for slot in self._rule.slots for name in own}
        if {name: value.shape for name, value in state.items()} != shapes:
            whose = "" if len(own) == len(every) else "'s critic"
            raise OptimizerError(
                f"Optimizer.load: expected the slots {', '.join(self._rule.slots) or 'none'} for every parameter of the policy{whose}, got "
                f"{len(state)} arrays that differ; load the checkpoint of the same optimizer and policy"
            )
        nested: dict[str, dict[str, Any]] = {slot: {} for slot in self._rule.slots}
        for key, value in state.items():
            slot, name = key.split("/", 1)
            nested[slot][name] = value
        self._bound_to(policy).load(nested)
        self.steps_taken = int(number("Optimizer.load steps_taken", steps_taken, OptimizerError, least=0))

    def _bound_to(self, policy: Policy) -> BoundOptimizer:
        bound = self._bound
        if bound is None:
            bound = self._rule.bind(policy)
            self._bound, self._policy = bound, policy
        elif policy is not self._policy:
            raise OptimizerError(
                "Optimizer.step: expected the policy of its first step, got another; make one optimizer for each policy"
            )
        return bound
