"""Optimizers: steps on any backend, by a formula or by a rule that measures its own step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pgcore.errors import OptimizerError
from pgcore.interfaces.formula import BoundOptimizer, OptimizerSpec
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Checked, number

__all__ = ["FirstOrder", "Optimizer", "Rule", "StepReport"]


@dataclass(frozen=True, slots=True)
class StepReport:
    """The measurements of a trust region's step.

    Attributes:
        accepted: Whether the step was taken; a refused one leaves every parameter to the bit.
        kl: Mean KL(policy before, policy after) over the batch's real steps, nats.
        length: Euclidean length of the step in the policy's parameters.
        step_size: The factor of the natural gradient, or of the gradient without a metric.
        improvement: The fall of the surrogate's loss, in its unit.
        expected: The fall of a linear loss.
        backtracks: The line search's number of shorter steps.
        iterations: Of conjugate gradients.
        residual: Of conjugate gradients, relative to the gradient's norm.
        converged: Whether the residual is within the tolerance.
    """

    accepted: bool
    kl: float
    length: float
    step_size: float
    improvement: float
    expected: float
    backtracks: int
    iterations: int
    residual: float
    converged: bool

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


class Rule(Checked, ABC):
    """An `Optimizer`'s way to step, such as `FirstOrder` or a trust region.

    Attributes:
        name: Its registered name.
        slots: Names of the arrays kept for the parameters in `slot_parameters`, all starting at 0.
        whole_batch: Whether a step takes all of a batch once, not one minibatch of many.
    """

    name: ClassVar[str]
    slots: tuple[str, ...] = ()
    whole_batch: ClassVar[bool] = False
    field_error = OptimizerError

    @abstractmethod
    def bind(self, policy: Policy) -> BoundOptimizer:
        """Return the state for one policy."""

    @abstractmethod
    def step(
        self, bound: BoundOptimizer, gradient: Gradient, steps_taken: int
    ) -> StepReport | None:
        """Take a step, and return its report where the rule measures one.

        Args:
            bound: The state from `bind`.
            gradient: Of the same policy.
            steps_taken: The number of earlier steps.
        """

    def slot_parameters(self, policy: Policy) -> tuple[str, ...]:
        """Return the names of the parameters that have slots: all."""
        return tuple(policy.spec.parameter_shapes)


class FirstOrder(Rule):
    """Steps by an update formula, on state that the policy's backend keeps."""

    def __init__(self, formula: OptimizerSpec) -> None:
        """Keep the formula."""
        self.formula = formula
        self.slots = formula.slots

    def bind(self, policy: Policy) -> BoundOptimizer:
        """See `Rule.bind`: the backend's."""
        return policy.optimizer_state(self.formula)

    def step(self, bound: BoundOptimizer, gradient: Gradient, steps_taken: int) -> None:
        """See `Rule.step`; there is no report."""
        formula = self.formula
        if formula.max_grad_norm is not None:
            gradient = gradient.clipped(formula.max_grad_norm)
        # A formula counts its steps from 1, a schedule from 0.
        bound.step(gradient, formula.scalars(steps_taken + 1, formula.rate(steps_taken)))


class Optimizer:
    """Takes steps with one spec on one policy; binds to the first policy it gets.

    Attributes:
        spec: The formula, or the `Rule`, and its hyper-parameters.
        steps_taken: The number of steps; one that a trust region refused does not count.
    """

    def __init__(self, spec: OptimizerSpec | Rule) -> None:
        """Keep the spec; nothing native exists before the first step."""
        self._rule = FirstOrder(spec) if isinstance(spec, OptimizerSpec) else spec
        self.spec: Any = spec
        self.steps_taken = 0
        self._policy: Policy | None = None
        self._bound: BoundOptimizer | None = None

    def __repr__(self) -> str:
        """Return the spec and the number of steps."""
        return f"Optimizer({self.spec}, {self.steps_taken} steps taken)"

    def step(self, policy: Policy, gradient: Gradient) -> StepReport | None:
        """Move the policy's parameters against the gradient, in place.

        Args:
            policy: That of the first step.
            gradient: Of this policy.

        Returns:
            A trust region's report; None of a first-order step.

        Raises:
            OptimizerError: optimizer or gradient belong to another policy, or a trust region
                cannot use the gradient.
            NonFiniteError: the gradient or a trust region's step is NaN or infinite; the parameters
                do not change.
        """
        bound = self._bound_to(policy)
        if gradient.policy is not policy:
            raise OptimizerError(
                "Optimizer.step: expected a gradient of this policy, got one of another; "
                "compute it on the policy you step"
            )
        report = self._rule.step(bound, gradient, self.steps_taken)
        if report is None or report.accepted:
            self.steps_taken += 1
        return report

    def state(self, policy: Policy) -> dict[str, Array]:
        """Return the slots as `slot/parameter` to array, for a checkpoint."""
        state: dict[str, Array] = {}
        for slot, values in self._bound_to(policy).slots().items():
            state |= {f"{slot}/{name}": value for name, value in values.items()}
        return state

    def load(self, policy: Policy, state: Mapping[str, Array], steps_taken: int) -> None:
        """Continue from a checkpoint.

        Args:
            policy: To bind to.
            state: The result of `state`.
            steps_taken: The number of steps before it.

        Raises:
            OptimizerError: the state is not that of this spec and policy.
        """
        shapes, names = policy.spec.parameter_shapes, self._rule.slot_parameters(policy)
        # Each slot has an array of the shape of each of the rule's parameters.
        slots: dict[str, dict[str, Any]] = {slot: {} for slot in self._rule.slots}
        expected = {f"{slot}/{name}": shapes[name] for slot in slots for name in names}
        if {name: value.shape for name, value in state.items()} != expected:
            critic = "" if len(names) == len(shapes) else "'s critic"
            raise OptimizerError(
                f"Optimizer.load: expected the slots {', '.join(slots) or 'none'} for every parameter "
                f"of the policy{critic}, got {len(state)} arrays that differ; "
                "load the checkpoint of the same optimizer and policy"
            )
        for key, value in state.items():
            slot, name = key.split("/", 1)
            slots[slot][name] = value
        self._bound_to(policy).load(slots)
        where = "Optimizer.load steps_taken"
        self.steps_taken = int(number(where, steps_taken, OptimizerError, least=0))

    def _bound_to(self, policy: Policy) -> BoundOptimizer:
        """Return the state, made at the first step."""
        if self._bound is None:
            self._bound, self._policy = self._rule.bind(policy), policy
        elif policy is not self._policy:
            raise OptimizerError(
                "Optimizer.step: expected the policy of its first step, got another; "
                "make one optimizer for each policy"
            )
        return self._bound
