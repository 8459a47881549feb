"""Trust regions: steps of a policy that are measured on the batch they come from, and taken back where they are refused.

The policy's own parameters are one [P] vector in canonical order. Everything here is NumPy in float64, so a step is the same on every
backend up to rounding: gradients, Fisher-vector products, distributions and surrogate terms alone are a backend's. Parameters are
rounded to the policy's dtype once, as they are loaded.

The Fisher information of the critic's parameters is 0, so no trust region moves them: Adam does, after a step that was taken.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, cast

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

NOTHING = Solution(np.empty(0), 0, 0.0, converged=True)


class Region:
    """One policy with one gradient, before, during and after a step.

    Attributes:
        norm: |g|, the Euclidean norm of the policy's gradient.
        unit: [P] g / |g|; 0 where the gradient is.
    """

    def __init__(self, policy: Policy, gradient: Gradient) -> None:
        """Keep what a step is measured against.

        Raises:
            OptimizerError: the policy has no parameters beside those that are the critic's by name.
            NonFiniteError: the gradient is NaN or infinite.
        """
        batch = gradient.surrogate.batch
        self.policy, self.gradient, self.batch = policy, gradient, batch
        self._before = policy.parameters()
        named = gradient.numpy()
        critic = critic_names(policy)
        self._names = [name for name in self._before if name not in critic]
        if not self._names:
            raise OptimizerError(
                f"trust region on {policy.spec.network}: expected parameters of the policy's own, got none whose name does not begin with critic., "
                "which are the critic's; give the policy's another name"
            )
        self._layout = Layout({name: self._before[name].shape for name in self._names})
        self._own = np.concatenate(
            [np.full(value.size, name not in critic) for name, value in named.items()]
        )
        own = flat({name: named[name] for name in self._names}).astype(np.float64)
        largest = float(np.abs(own).max())
        if not np.isfinite(largest):
            raise NonFiniteError(
                "Optimizer.step: expected a finite gradient, got NaN or infinity; the parameters are unchanged, look at what it was scaled with"
            )
        scaled = own / largest if largest else own
        length = float(np.linalg.norm(scaled))
        self.norm = largest * length
        self.unit = scaled / length if length else own
        self._distribution = policy.distribution(batch.observations, batch.action_mask)
        # Of the policy as it is: the gradient may be older, and what earlier steps on it gained is not this one's.
        self._terms = policy.gradient(gradient.surrogate).terms().astype(np.float64)
        real = np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
        self._shares = real / real.sum()

    def fisher_product(self, vector: Array, damping: float) -> Array:
        """Return [P] (F + damping I) v for a [P] v, float64."""
        whole = np.zeros(len(self._own))
        whole[self._own] = vector
        product = self.policy.fisher_vector_product(self.batch, whole)[self._own]
        return product.astype(np.float64) + damping * vector

    def tried(self, change: Array) -> tuple[float, float]:
        """Move the policy to its parameters plus a [P] change; return the mean KL, and by how much the loss fell.

        Both are infinite or NaN where the policy overflows there.
        """
        changes = self._layout.named(change)
        moved = self._before | {name: self._before[name] + value for name, value in changes.items()}
        try:
            with np.errstate(all="ignore"):
                self.policy.load(moved)
                now = self.policy.distribution(self.batch.observations, self.batch.action_mask)
                kl = float(self._shares @ self.policy.spec.head.kl(host, self._distribution, now))
                terms = self.policy.gradient(self.gradient.surrogate).terms()
                return kl, float(self.gradient.surrogate.weights @ (self._terms - terms))
        except (NonFiniteError, ParameterError):
            return np.inf, -np.inf

    def report(
        self,
        change: Array,
        *,
        expected: float,
        step_size: float,
        backtracks: int = 0,
        solution: Solution = NOTHING,
    ) -> StepReport:
        """Try a [P] change and return what it comes to, as if it were accepted."""
        kl, improvement = self.tried(change)
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

    def refused(self, *, backtracks: int = 0, solution: Solution = NOTHING) -> StepReport:
        """Put every parameter back and return the report of no step."""
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
        """Put every parameter back, to the bit."""
        self.policy.load(self._before)


@dataclass(frozen=True, kw_only=True)
class TrustRegionSpec(Rule):
    """A trust region's hyper-parameters; a subclass writes `move`.

    Attributes:
        critic_learning_rate: Of the Adam steps that the critic takes after each accepted step of the policy.
        critic_steps: How many, each on the whole batch.

    Raises:
        OptimizerError: a field has a value it cannot take.
    """

    critic_learning_rate: Positive = 1e-2
    critic_steps: Count = 20
    slots = Adam.slots
    whole_batch: ClassVar[bool] = True

    @abstractmethod
    def move(self, region: Region, steps_taken: int) -> StepReport:
        """Try changes until one is accepted and in place, or none is; `region` says what each comes to.

        The gradient is not 0. Whatever this raises, every parameter is put back.
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
        """See `Rule.step`; on an error, too, every parameter and slot is what it was."""
        critic = cast("CriticOptimizer", bound)
        region, kept = Region(critic.policy, gradient), critic.slots()
        critic.check(region.batch)
        if region.norm == 0.0:
            return region.refused()
        try:
            report = self.move(region, steps_taken)
            if report.accepted:
                check_taken(report)
                self._fit(critic, gradient, steps_taken)
        except BaseException:
            region.restore()
            critic.load(kept)
            raise
        return report

    def _fit(self, critic: CriticOptimizer, gradient: Gradient, steps_taken: int) -> None:
        """Let the critic take its steps; the policy's parameters stay where they are."""
        if not critic_names(critic.policy):
            return
        formula = Adam(self.critic_learning_rate)
        for step in range(steps_taken * self.critic_steps, (steps_taken + 1) * self.critic_steps):
            found = critic.policy.gradient(gradient.surrogate)
            critic.step(found, formula.scalars(step + 1, self.critic_learning_rate))


def check_taken(report: StepReport) -> None:
    """Raise NonFiniteError where a step that nothing else looked at made the policy overflow."""
    if not (np.isfinite(report.kl) and np.isfinite(report.improvement)):
        raise NonFiniteError(
            f"Optimizer.step: expected a policy without NaN or infinity after a step of length {report.length:.3g}, got one with; the parameters "
            "are unchanged, take a smaller step"
        )
