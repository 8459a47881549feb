"""Trust regions: steps measured on the batch of their gradient, and undone if refused.

The policy's parameters, the critic's left out, are one [P] vector in canonical order. Arithmetic is
NumPy's in float64, so a step is the same on every backend up to rounding: gradients, Fisher-vector
products, distributions and surrogate terms alone are a backend's. Parameters are rounded to the
policy's dtype once, on loading.

The Fisher information of the critic's parameters is 0, so no trust region moves them: Adam does,
after each accepted step.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np

from pgcore.errors import NonFiniteError, OptimizerError, ParameterError
from pgcore.interfaces.formula import BoundOptimizer
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.optimizer import Rule, StepReport
from pgcore.interfaces.parameters import Layout, flat
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Count, Positive
from pgcore.xp.numpy import host
from pgcore_optimizers.conjugate_gradient import Solution
from pgcore_optimizers.critic_steps import CriticOptimizer, critic_names
from pgcore_optimizers.first_order import Adam

__all__ = ["Region", "TrustRegionSpec"]

# The solution of a step that solves no linear system.
NO_SOLUTION = Solution(np.empty(0), 0, 0.0, converged=True)


class Region:
    """One policy with one gradient, before, during and after a step.

    Attributes:
        norm: |g|, the Euclidean norm of the policy's gradient.
        unit: [P] g / |g|; 0 where the gradient is.
    """

    def __init__(self, policy: Policy, gradient: Gradient) -> None:
        """Evaluate the policy before the step.

        Args:
            policy: The policy to move.
            gradient: Of a loss on one batch, which may be older than the policy's parameters.

        Raises:
            OptimizerError: the policy has no parameters beside those that are the critic's by name.
            NonFiniteError: the gradient is NaN or infinite.
        """
        batch = gradient.surrogate.batch
        self.policy, self.gradient, self.batch = policy, gradient, batch
        self._before = policy.parameters()
        derivatives = gradient.numpy()
        critic = critic_names(policy)
        self._names = [name for name in self._before if name not in critic]
        if not self._names:
            raise OptimizerError(
                f"trust region on {policy.spec.network}: expected parameters of the policy's own, "
                "got none whose name does not begin with critic., which are the critic's; give the "
                "policy's another name"
            )
        self._layout = Layout({name: self._before[name].shape for name in self._names})
        # [D] bool: the entries of the policy's [P] among all parameters, the critic's included.
        self._of_policy = np.concatenate(
            [np.full(value.size, name not in critic) for name, value in derivatives.items()]
        )
        g = flat({name: derivatives[name] for name in self._names}).astype(np.float64)
        largest = float(np.abs(g).max())
        if not np.isfinite(largest):
            raise NonFiniteError(
                "Optimizer.step: expected a finite gradient, got NaN or infinity; the parameters "
                "are unchanged, look at the factor that scaled it"
            )
        # Scaled before it is squared, so that no norm underflows or overflows.
        scaled = g / largest if largest else g
        length = float(np.linalg.norm(scaled))
        self.norm = largest * length
        self.unit = scaled / length if length else g
        self._distribution = policy.distribution_at(batch)
        # Of the policy before this step: the gains of earlier steps on an older gradient are theirs.
        self._start = policy.gradient(gradient.surrogate).record()
        # On the device of the distribution, where there is one.
        real: Any = np.ones_like(self._distribution[:, 0])
        if batch.step_weights is not None:
            real = real * batch.step_weights
        self._shares: Any = real / real.sum()

    def fisher_product(self, vector: Array, damping: float) -> Array:
        """Return [P] (F + damping I) v, float64.

        Args:
            vector: [P] float64, v.
            damping: At least 0.
        """
        # Policies multiply vectors over all parameters; the critic's entries are 0 in and out.
        whole = np.zeros(len(self._of_policy))
        whole[self._of_policy] = vector
        product = self.policy.fisher_vector_product(self.batch, whole)[self._of_policy]
        return product.astype(np.float64) + damping * vector

    def move_by(self, change: Array) -> tuple[float, float]:
        """Move the policy by a [P] change; return the mean KL, nats, and the fall of the loss.

        Both are infinite or NaN if the policy overflows there.
        """
        changes = self._layout.named(change)
        after = self._before | {name: self._before[name] + value for name, value in changes.items()}
        try:
            # A step too long may overflow: the numbers that come back are the report of that.
            with np.errstate(all="ignore"):
                self.policy.load(after)
                now = self.policy.distribution_at(self.batch)
                each: Any = self.policy.spec.head.kl(host, self._distribution, now)
                kl = cast("Any", np.vdot(self._shares, each))
                there = self.policy.gradient(self.gradient.surrogate)
                return float(kl), there.total(self._start)
        except (NonFiniteError, ParameterError):
            return np.inf, -np.inf

    def report(
        self,
        change: Array,
        *,
        expected: float,
        step_size: float,
        backtracks: int = 0,
        solution: Solution = NO_SOLUTION,
    ) -> StepReport:
        """Move the policy by a change and return its report, as of an accepted step.

        Args:
            change: [P] float64, added to the parameters before the step.
            expected: The linear prediction of the loss's fall.
            step_size: The learning rate that the change amounts to.
            backtracks: Shorter steps so far.
            solution: Of the linear system behind the change.
        """
        kl, improvement = self.move_by(change)
        return StepReport(
            accepted=True,
            kl=kl,
            length=float(np.linalg.norm(change)),
            step_size=step_size,
            improvement=improvement,
            expected=expected,
            backtracks=backtracks,
            iterations=solution.iterations,
            residual=solution.residual,
            converged=solution.converged,
        )

    def refused(self, *, backtracks: int = 0, solution: Solution = NO_SOLUTION) -> StepReport:
        """Restore every parameter and return the report of no step."""
        self.restore()
        return StepReport(
            accepted=False,
            kl=0.0,
            length=0.0,
            step_size=0.0,
            improvement=0.0,
            expected=0.0,
            backtracks=backtracks,
            iterations=solution.iterations,
            residual=solution.residual,
            converged=solution.converged,
        )

    def restore(self) -> None:
        """Restore every parameter, to the bit."""
        self.policy.load(self._before)


@dataclass(frozen=True, kw_only=True)
class TrustRegionSpec(Rule):
    """A trust region's hyper-parameters; a subclass writes `move`.

    Attributes:
        critic_learning_rate: Of the critic's Adam steps after each accepted step of the policy.
        critic_steps: Their number, each on the whole batch.

    Raises:
        OptimizerError: a field has a value it cannot take.
    """

    critic_learning_rate: Positive = 1e-2
    critic_steps: Count = 20
    slots = Adam.slots
    whole_batch: ClassVar[bool] = True

    @abstractmethod
    def move(self, region: Region, steps_taken: int) -> StepReport:
        """Move the policy within the region, or return `region.refused()`.

        On an error the caller restores every parameter.

        Args:
            region: The policy and a gradient that is not 0; `region.report` tries a change.
            steps_taken: Steps before this one, for schedules.
        """

    def bind(self, policy: Policy) -> CriticOptimizer:
        """See `Rule.bind`: the state is the critic's alone.

        Raises:
            OptimizerError: the critic shares the policy's hidden layers.
        """
        return CriticOptimizer(Adam(self.critic_learning_rate), policy)

    def slot_parameters(self, policy: Policy) -> tuple[str, ...]:
        """See `Rule.slot_parameters`: the critic's."""
        return critic_names(policy)

    def step(self, bound: BoundOptimizer, gradient: Gradient, steps_taken: int) -> StepReport:
        """See `Rule.step`; on an error every parameter and slot is restored."""
        critic = cast("CriticOptimizer", bound)
        region, slots = Region(critic.policy, gradient), critic.slots()
        critic.check(region.batch)
        # A gradient of 0 has no direction, and the critic learns with accepted steps only.
        if region.norm == 0.0:
            return region.refused()
        try:
            report = self.move(region, steps_taken)
            if report.accepted:
                check_taken(report)
                self._fit(critic, gradient, steps_taken)
        except BaseException:  # an interrupt, too, must leave no half-taken step
            region.restore()
            critic.load(slots)
            raise
        return report

    def _fit(self, critic: CriticOptimizer, gradient: Gradient, steps_taken: int) -> None:
        """Take the critic's steps; the policy's parameters stay as they are."""
        if not critic_names(critic.policy):
            return
        formula = Adam(self.critic_learning_rate)
        # Adam's bias correction counts the critic's steps, over all steps of the policy.
        for step in range(steps_taken * self.critic_steps, (steps_taken + 1) * self.critic_steps):
            scalars = formula.scalars(step + 1, self.critic_learning_rate)
            critic.step(critic.policy.gradient(gradient.surrogate), scalars)


def check_taken(report: StepReport) -> None:
    """Raise NonFiniteError if an accepted step made the policy overflow."""
    if not (np.isfinite(report.kl) and np.isfinite(report.improvement)):
        raise NonFiniteError(
            "Optimizer.step: expected a policy without NaN or infinity after a step of length "
            f"{report.length:.3g}, got one with; the parameters are unchanged, take a smaller step"
        )
