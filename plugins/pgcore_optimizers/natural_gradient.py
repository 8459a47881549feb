"""The built-in trust regions: natural gradient, TRPO and the Euclidean one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pgcore.errors import OptimizerError
from pgcore.interfaces.formula import LearningRate
from pgcore.interfaces.optimizer import StepReport
from pgcore.interfaces.schedules import Schedule
from pgcore.validation.fields import Count, Decay, NonNegative, Positive, decay, positive
from pgcore_optimizers.conjugate_gradient import Solution, conjugate_gradient
from pgcore_optimizers.trust_region import Region, TrustRegionSpec

__all__ = ["TRPO", "EuclideanTrustRegion", "FisherRegionSpec", "NaturalGradient"]


@dataclass(frozen=True, kw_only=True)
class FisherRegionSpec(TrustRegionSpec):
    """A trust region in the metric of the Fisher information F of the batch's states.

    Attributes:
        damping: Added to F's diagonal, which is singular for a softmax's logits; at least 0.
        tolerance: Conjugate gradients stop at a residual of this times the gradient's norm;
            in [0, 1).
        iterations: The largest number of Fisher-vector products; the report holds `converged`.
    """

    # Damping 0.1 and 10 iterations are those of Schulman et al. 2015's published code.
    damping: NonNegative = 0.1
    tolerance: Decay = 1e-10
    iterations: Count = 10

    def solve(self, region: Region) -> tuple[Solution, float]:
        """Return [P] x = (F + damping I)^-1 g / |g|, and its slope g^T x / |g|.

        Args:
            region: The policy and its gradient g.

        Raises:
            OptimizerError: the curvature along a search direction is not above 0.
            NonFiniteError: a Fisher-vector product is NaN or infinite.
        """
        solution = conjugate_gradient(
            lambda vector: region.fisher_product(vector, self.damping),
            region.unit,
            iterations=self.iterations,
            tolerance=self.tolerance,
        )
        # Steps are scaled by the inverse of the slope's root, so a slope of 0 or infinity has none.
        slope = float(region.unit @ solution.vector)
        if not 0.0 < slope < math.inf:
            raise OptimizerError(
                f"{self.name}: expected g^T F^-1 g above 0, got {slope:.3g} for a gradient of "
                "length 1; the parameters are unchanged, raise damping"
            )
        return solution, slope


@dataclass(frozen=True, kw_only=True)
class NaturalGradient(FisherRegionSpec):
    """Natural policy gradient (NPG): theta <- theta - rate F^-1 g, without a line search.

    NPG in papers is this step on the gradient of `actor_critic` or `reinforce`.

    Attributes:
        learning_rate: The rate, or a schedule; with `max_kl` an upper limit of the rate.
        max_kl: Lower the rate to sqrt(2 max_kl / g^T F^-1 g), at which the mean KL is this to
            second order, nats; None never does.

    Source: Kakade 2001, "A natural policy gradient"; the bound on the rate is Wu et al. 2017,
    sec. 3.4, arXiv:1708.05144.
    """

    learning_rate: LearningRate = 1.0
    max_kl: Positive | None = 0.01
    name: ClassVar[str] = "natural_gradient"

    def rate(self, step: int) -> float:
        """Return the learning rate of step number `step`, from 0, before `max_kl` lowers it."""
        rate = self.learning_rate
        return rate(step) if isinstance(rate, Schedule) else rate

    def move(self, region: Region, steps_taken: int) -> StepReport:
        """See `TrustRegionSpec.move`."""
        solution, slope = self.solve(region)
        rate = self.rate(steps_taken)
        # To second order the KL of a step of length a along F^-1 g is a^2 g^T F^-1 g / 2.
        if self.max_kl is not None:
            rate = min(rate, math.sqrt(2.0 * self.max_kl / slope) / region.norm)
        change = -rate * region.norm * solution.vector
        return region.report(
            change,
            expected=rate * region.norm * region.norm * slope,
            step_size=rate,
            solution=solution,
        )


@dataclass(frozen=True, kw_only=True)
class TRPO(FisherRegionSpec):
    """Trust region policy optimisation: the longest natural-gradient step, then a line search.

    theta <- theta - shrinkage^j sqrt(2 max_kl / g^T F^-1 g) F^-1 g, for the first j accepted

    A step is accepted if the mean KL is at most `max_kl` and the loss falls, by at least
    `acceptance` times the linear prediction. If none is, every parameter keeps its bits.

    Attributes:
        max_kl: Mean KL(before, after) over the batch, nats.
        backtracks: The largest j; at least 1.
        shrinkage: Factor of the step's length at each backtrack, in (0, 1).
        acceptance: In [0, 1).

    Source: Schulman et al. 2015, app. C, arXiv:1502.05477. Differs: F is damped, as in the authors'
    code.
    """

    # KL bound of Schulman et al. 2015, table 2; the line search is that of their published code.
    max_kl: Positive = 0.01
    backtracks: Count = 10
    shrinkage: Annotated[float, decay, positive] = 0.5
    acceptance: Decay = 0.1
    name: ClassVar[str] = "trpo"

    def move(self, region: Region, steps_taken: int) -> StepReport:
        """See `TrustRegionSpec.move`."""
        solution, slope = self.solve(region)
        longest = math.sqrt(2.0 * self.max_kl / slope)
        # Lengths are of the unit gradient's solution: g^T F^-1 g is |g|^2 times the slope.
        for backtracks in range(self.backtracks + 1):
            scale = longest * self.shrinkage**backtracks
            report = region.report(
                -scale * solution.vector,
                expected=scale * region.norm * slope,
                step_size=scale / region.norm,
                backtracks=backtracks,
                solution=solution,
            )
            # An overflow gives a NaN or infinite report, which no comparison accepts.
            enough = report.improvement >= self.acceptance * report.expected
            if report.kl <= self.max_kl and report.improvement > 0.0 and enough:
                return report
        return region.refused(backtracks=self.backtracks, solution=solution)


@dataclass(frozen=True, kw_only=True)
class EuclideanTrustRegion(TrustRegionSpec):
    """Gradient descent of one length: theta <- theta - sqrt(eps) g / |g|.

    Attributes:
        eps: The squared length of a step, in the parameters' unit squared.
    """

    eps: Positive = 0.01
    name: ClassVar[str] = "trust_region"

    def move(self, region: Region, steps_taken: int) -> StepReport:
        """See `TrustRegionSpec.move`."""
        length = math.sqrt(self.eps)
        return region.report(
            -length * region.unit, expected=length * region.norm, step_size=length / region.norm
        )
