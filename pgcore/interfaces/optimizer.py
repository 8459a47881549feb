"""Optimizers: steps on any backend, by an update formula or another rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pgcore.errors import OptimizerError
from pgcore.interfaces.formula import BoundOptimizer, Rule, StepReport
from pgcore.interfaces.gradient import Gradient, ensure_gradient
from pgcore.interfaces.policy import Policy, ensure_policy
from pgcore.validation.arrays import Array
from pgcore.validation.fields import instance_of, non_negative

__all__ = ["Optimizer", "Rule", "StepReport"]

RULE = instance_of(Rule, "an OptimizerSpec")


class Optimizer:
    """Takes steps with one spec on one policy; binds to the first policy it gets."""

    def __init__(self, spec: Rule) -> None:
        """Keep the spec, such as an `OptimizerSpec`; nothing native exists before the first step."""
        self.spec: Any = RULE("Optimizer", spec, OptimizerError)
        self._steps = 0  # with those that a device left out
        self._policy: Policy | None = None
        self._bound: BoundOptimizer | None = None

    @property
    def steps_taken(self) -> int:
        """The number of steps; one that was refused or left out does not count.

        On an accelerator a step of a gradient that is not finite is left out, and counts until the
        error is raised.
        """
        return self._steps - (0 if self._bound is None else self._bound.skipped)

    def __repr__(self) -> str:
        """Return the spec and the number of steps."""
        return f"Optimizer({self.spec}, {self.steps_taken} steps taken)"

    def step(self, policy: Policy, gradient: Gradient) -> StepReport | None:
        """Move the policy's parameters against the gradient in place; return a trust region's report.

        Args:
            policy: That of the first step.
            gradient: Of this policy.

        Raises:
            OptimizerError: optimizer, gradient and policy do not belong together.
            NonFiniteError: the gradient or the step is NaN or infinite; no parameter changes.
        """
        ensure_policy("Optimizer.step policy", policy)
        ensure_gradient("Optimizer.step gradient", gradient)
        bound = self._bound_to(policy)
        if gradient.policy is not policy:
            raise OptimizerError(
                "Optimizer.step: expected a gradient of this policy, got one of another; "
                "compute it on the policy you step"
            )
        # A refused step leaves the policy as it was, so that schedules do not advance.
        report = self.spec.step(bound, gradient, self.steps_taken)
        if report is None or report.accepted:
            self._steps += 1
        return report

    def state(self, policy: Policy) -> dict[str, Array]:
        """Return the slots as `slot/parameter` to array, for a checkpoint.

        Raises:
            NonFiniteError: an earlier step was left out, which a device tells here; see `steps_taken`.
        """
        ensure_policy("Optimizer.state policy", policy)
        policy.check_unread()
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
        ensure_policy("Optimizer.load policy", policy)
        slots, names = self.spec.slots, self.spec.slot_parameters(policy)
        shapes = policy.spec.parameter_shapes
        expected = {f"{slot}/{name}": shapes[name] for slot in slots for name in names}
        arrays: Any = state if isinstance(state, Mapping) else {}  # pyright: ignore[reportUnnecessaryIsInstance]
        if {name: getattr(value, "shape", None) for name, value in arrays.items()} != expected:
            critic = "" if len(names) == len(shapes) else "'s critic"
            raise OptimizerError(
                f"Optimizer.load: expected the slots {', '.join(slots) or 'none'} for every parameter "
                f"of the policy{critic}, got {len(arrays)} arrays that differ; "
                "load the checkpoint of the same optimizer and policy"
            )
        # A backend loads one mapping a slot.
        by_slot: dict[str, dict[str, Array]] = {}
        for slot in slots:
            by_slot[slot] = {name: state[f"{slot}/{name}"] for name in names}
        bound = self._bound_to(policy)
        bound.load(by_slot)
        taken = non_negative("Optimizer.load steps_taken", steps_taken, OptimizerError)
        self._steps = int(taken) + bound.skipped

    def _bound_to(self, policy: Policy) -> BoundOptimizer:
        """Return the state, made at the first step."""
        bound = self._bound or self.spec.bind(policy)
        if self._bound is None:
            self._bound, self._policy = bound, policy
        elif policy is not self._policy:
            raise OptimizerError(
                "Optimizer.step: expected the policy of its first step, got another; "
                "make one optimizer for each policy"
            )
        return bound
