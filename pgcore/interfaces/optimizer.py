"""Optimizers: the handle that takes steps on any backend, by a formula or by a rule that measures its own step."""

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
    """What a trust region's step came to.

    Attributes:
        accepted: Whether the step was taken; where it was not, every parameter is what it was to the bit.
        kl: Mean KL(policy before, policy after) over the batch's real steps, nats.
        length: Euclidean length of the step in the policy's parameters.
        step_size: What the natural gradient was multiplied with, or the gradient where there is no metric.
        improvement: By how much the surrogate's loss fell, in its unit.
        expected: By how much it would have fallen were it linear.
        backtracks: How often the line search shortened the step.
        iterations: Of conjugate gradients.
        residual: What they left, beside the gradient's norm.
        converged: Whether that is within the tolerance.
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
        """The figures worth logging, by name."""
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
    """How an `Optimizer` takes its steps: `FirstOrder`, or a `pgcore_optimizers.trust_region.TrustRegionSpec`.

    Attributes:
        name: What the optimizer is registered as.
        slots: Names of the arrays that it keeps for the parameters in `slot_parameters`, all starting at 0.
        whole_batch: Whether a step is meant to have all of a batch, once, rather than one minibatch of many.
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
        """Take the step that comes after `steps_taken` others, and return what there is to say about it."""

    def slot_parameters(self, policy: Policy) -> tuple[str, ...]:
        """Return the names of the parameters that have slots: all."""
        return tuple(policy.spec.parameter_shapes)


class FirstOrder(Rule):
    """Steps by an update formula, on state that the policy's backend keeps.

    Attributes:
        formula: The update.
    """

    def __init__(self, formula: OptimizerSpec) -> None:
        """Keep the formula."""
        self.formula = formula
        self.slots = formula.slots

    def bind(self, policy: Policy) -> BoundOptimizer:
        """See `Rule.bind`: the backend's."""
        return policy.optimizer_state(self.formula)

    def step(self, bound: BoundOptimizer, gradient: Gradient, steps_taken: int) -> None:
        """See `Rule.step`; there is nothing to report."""
        formula = self.formula
        if formula.max_grad_norm is not None:
            gradient = gradient.clipped(formula.max_grad_norm)
        bound.step(gradient, formula.scalars(steps_taken + 1, formula.rate(steps_taken)))


class Optimizer:
    """Takes steps with one spec on one policy; binds to the first policy it is given.

    Attributes:
        spec: The formula, or the `Rule`, and its hyper-parameters.
        steps_taken: How many steps it has taken; one that a trust region refused is none.
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
        self.steps_taken = int(
            number("Optimizer.load steps_taken", steps_taken, OptimizerError, least=0)
        )

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
