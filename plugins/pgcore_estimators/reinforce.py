"""REINFORCE: the score function times the return, less a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self, cast

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import AnyReduction, Evaluate, Reduction
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.parts import Composed, Composition
from pgcore.parts.composition import Normalisation
from pgcore.returns import optimal_baseline
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, Number, UnitInterval, choice
from pgcore_estimators.parts.critics import Squared
from pgcore_estimators.parts.levels import Token
from pgcore_estimators.parts.returns import BASELINES, Returns
from pgcore_estimators.parts.score import Score
from pgcore_estimators.terms import Ddof

__all__ = ["ComponentBaseline", "Reinforce"]

# The one baseline that no surrogate can express: it differs from parameter to parameter.
PER_COMPONENT = "optimal_per_component"
Baseline = Annotated[str, choice(*BASELINES, PER_COMPONENT)]


@dataclass(frozen=True)
class Reinforce(Composed):
    """REINFORCE, with the return G and the baseline b held constant.

    loss = mean over trajectories of sum_t -log pi(a_t given s_t) (G_t - b_t)
           + c_v (V(s_t) - G_t)^2 / 2 - c_e H_t

    The parts are the advantage `returns`, whose fields the first ones are, the objective `score`,
    and with the critic's baseline the critic `squared`.

    Attributes:
        gamma, reward_to_go, baseline_value, discount_state: See `pgcore.Returns`.
        baseline: b, one of those of `pgcore.Returns`, or "optimal_per_component" for the optimal
            baseline of each parameter separately.
        value_coefficient: c_v, with baseline "value".
        entropy_coefficient: c_e, of the entropy bonus; 0 leaves it out.
        normalise: "none", or "batch" or "minibatch" to give advantages mean 0 and standard
            deviation 1, biased.
        ddof: Of that standard deviation.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 0.99
    reward_to_go: Flag = True
    baseline: Baseline = "none"
    baseline_value: Number = 0.0
    discount_state: Flag = False
    value_coefficient: Number = 0.5
    entropy_coefficient: Number = 0.0
    normalise: Normalisation = "none"
    ddof: Ddof = 1
    reduction: AnyReduction = Reduction.TRAJECTORY
    name: ClassVar[str] = "reinforce"
    sources: ClassVar[tuple[str, ...]] = (
        "Williams 1992, Machine Learning 8, eq. 11",
        "Greensmith, Bartlett and Baxter 2004, JMLR 5, sec. 4 (optimal baselines)",
        "Kool, van Hoof and Welling 2019 (leave-one-out)",
    )

    def __new__(cls, *values: Any, **options: Any) -> Self:
        """Return a `ComponentBaseline` if the baseline is one for each parameter."""
        # Before __init__ the fields are not set: the baseline is looked up among the arguments.
        names = [field.name for field in fields(cls)]
        arguments = dict(zip(names, values, strict=False)) | options
        baseline = arguments.get("baseline")
        named = isinstance(baseline, str)  # an array has no single truth value to compare by
        by_component = cls is Reinforce and named and baseline == PER_COMPONENT
        return object.__new__(cast("type[Self]", ComponentBaseline) if by_component else cls)

    def __post_init__(self) -> None:
        """Check the fields, and the baseline's combination with the others."""
        super().__post_init__()
        if self.baseline != PER_COMPONENT:
            return
        if not isinstance(self, ScoreEstimator):
            raise EstimatorError(
                f"{type(self).__name__}.baseline: expected a baseline of the surrogate, got "
                f"{PER_COMPONENT!r}, which a ScoreEstimator combines; derive from ComponentBaseline"
            )
        # Scores are of log pi alone: nothing else of the loss can be combined from them.
        if self.entropy_coefficient != 0 or self.normalise != "none":
            raise EstimatorError(
                f"Reinforce.baseline: expected entropy_coefficient=0 and normalise='none' with "
                f"{PER_COMPONENT!r}, got {self.entropy_coefficient} and {self.normalise!r}; "
                "this baseline weighs scores alone, so choose 'optimal' to combine it"
            )

    def compose(self) -> Composition:
        """See `Composed.compose`."""
        # The baseline of each parameter is subtracted by `ComponentBaseline.combine` alone.
        baseline = "none" if self.baseline == PER_COMPONENT else self.baseline
        advantage = Returns(
            self.gamma, baseline, self.baseline_value, self.reward_to_go, self.discount_state
        )
        parts: dict[str, Any] = {"advantage": advantage, "objective": Score(), "level": Token()}
        return Composition.of(
            parts | ({"critic": Squared()} if baseline == "value" else {}),
            value_coefficient=self.value_coefficient,
            entropy_coefficient=self.entropy_coefficient,
            normalise=self.normalise,
            ddof=self.ddof,
            reduction=self.reduction,
        )


@dataclass(frozen=True, repr=False, eq=False)  # those of `Reinforce` serve
class ComponentBaseline(ScoreEstimator, Reinforce):
    """REINFORCE with one optimal baseline for each parameter, combined from scores.

    gradient = -sum_e w_e (u_e - b_e g_e), with g_e the sum of episode e's scores, u_e that of its
    scores times returns, and b_e = E[u g] / E[g^2] over the other episodes; see `Reinforce`.
    """

    baseline: Baseline = PER_COMPONENT
    section = "Reinforce"

    def __post_init__(self) -> None:
        """Check the fields and the baseline, which cannot be another."""
        super().__post_init__()
        if self.baseline != PER_COMPONENT:
            raise EstimatorError(
                f"ComponentBaseline.baseline: expected {PER_COMPONENT!r}, got {self.baseline!r}; "
                "make a Reinforce"
            )

    def combine(
        self, batch: Batch, evaluate: Evaluate, signals: Mapping[str, Array], weights: Array
    ) -> Array:
        """See `ScoreEstimator.combine`: -sum_e w_e (u_e - b_e g_e)."""
        real = batch.episode_weights > 0
        returns = cast("Returns", self.composition.advantage)
        g = evaluate.scores(returns.discount(batch))[real]
        # The signal is the discounted return itself.
        u = evaluate.scores(signals["advantage"])[real]
        b = optimal_baseline(g, u, per_component=True)
        return -(weights[batch.episode_starts][real] @ (u - b * g))
