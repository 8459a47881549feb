"""REINFORCE: the score function times the return, less a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self, cast

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import AnyReduction, Claims, Evaluate, Reduction
from pgcore.interfaces.recorded import critic_values
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.returns import episode_returns, optimal_baseline, returns, state_discounts
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, Number, UnitInterval, choice
from pgcore_estimators.critic_loss import ActorCriticLoss
from pgcore_estimators.parts.returns import episode_baseline
from pgcore_estimators.terms import Ddof, Normalisation, normalise_advantages

__all__ = ["ComponentBaseline", "Reinforce"]

# The one baseline that no surrogate can express: it differs from parameter to parameter.
PER_COMPONENT = "optimal_per_component"
BASELINES = ("none", "constant", "mean", "leave_one_out", "optimal", PER_COMPONENT, "value")
Baseline = Annotated[str, choice(*BASELINES)]


@dataclass(frozen=True)
class Reinforce(ActorCriticLoss):
    """REINFORCE, with the return G and the baseline b held constant.

    loss = mean over trajectories of sum_t -log pi(a_t given s_t) (G_t - b_t)
           + c_v (V(s_t) - G_t)^2 / 2 - c_e H_t
    G_t = sum_{k >= t} gamma^(k - t) r_k, or G_0 at every step without `reward_to_go`

    Attributes:
        gamma: Discount in [0, 1].
        reward_to_go: Weigh a step with the rewards from it on, discounted from it (causality);
            False weighs every step with the whole episode's return.
        baseline: b, one of
            "none";
            "constant": `baseline_value`;
            "mean": of the batch's episodes, this one included; it shrinks the gradient, at gamma 1
            or with the whole episode's return by exactly 1 - 1/N;
            "leave_one_out": the mean over the other episodes, unbiased;
            "optimal": the scalar E[|g|^2 R] / E[|g|^2] over the other episodes, g their scores;
            "optimal_per_component": the same for each parameter separately;
            "value": the critic's V(s_t).
        baseline_value: The constant, reward units.
        discount_state: Weigh step t by gamma^t too, as the exact gradient of the discounted return;
            without effect on the whole episode's return, which discounts from the start already.
        value_coefficient: c_v, with baseline "value".
        entropy_coefficient: c_e, of the entropy bonus; 0 leaves it out.
        normalise: "none", or "batch" to give advantages mean 0 and standard deviation 1, biased.
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
        by_component = cls is Reinforce and arguments.get("baseline") == PER_COMPONENT
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

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        # The mean over the batch depends on the step's own action, so it is no valid baseline.
        plain = (
            self.normalise == "none"
            and self.entropy_coefficient == 0
            and self.reduction == Reduction.TRAJECTORY
        )
        return Claims(
            unbiased=plain and self.baseline != "mean",
            off_policy="none",
            needs_critic=self.baseline == "value",
            discrete_only=False,
            whole_episodes=self.baseline != "value",
        )

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        if name in ("value", "return_"):
            return self.baseline == "value"
        return super().uses(name)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `advantage`, and with a critic its target `return_`."""
        # With a critic, time limits bootstrap; the target is the return to go in either case.
        if self.baseline == "value":
            v_t, final = critic_values(batch, evaluate)
            gamma = batch.step_discounts(self.gamma)
            target = returns(batch.rewards, batch.episode_lengths, gamma, final)
            g_t = self._returns(batch, final)
            return {"advantage": self._advantage(batch, g_t, v_t), "return_": target}
        g_t = self._returns(batch)
        return {"advantage": self._advantage(batch, g_t, self._baseline(batch, g_t, evaluate))}

    def _returns(self, batch: Batch, final_value: Array | None = None) -> Array:
        """Return [B] G, reward units."""
        gamma = batch.step_discounts(self.gamma)
        g_t = returns(batch.rewards, batch.episode_lengths, gamma, final_value)
        if self.reward_to_go:
            return g_t
        return episode_returns(g_t, batch.episode_lengths)[batch.episode_of_step]

    def _advantage(self, batch: Batch, g_t: Array, baseline: Array | float) -> Array:
        advantage = normalise_advantages(batch, g_t - baseline, self.normalise, self.ddof)
        discount = self._discount(batch)
        return advantage if discount is None else discount * advantage

    def _discount(self, batch: Batch) -> Array | None:
        """Return [B] gamma^t, or None for ones."""
        # The whole episode's return is discounted from the start, its steps need no further factor.
        if not (self.discount_state and self.reward_to_go):
            return None
        return state_discounts(batch.episode_lengths, batch.step_discounts(self.gamma))

    def _baseline(self, batch: Batch, g_t: Array, evaluate: Evaluate) -> Array | float:
        """Return the baseline, one number for all steps or [B], reward units."""
        if self.baseline == "constant":
            return self.baseline_value
        if self.baseline in ("none", PER_COMPONENT):
            return 0
        return episode_baseline(self.baseline, batch, g_t, evaluate, self._discount(batch))


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
        g = evaluate.scores(self._discount(batch))[real]
        # The signal is the discounted return itself: this baseline is subtracted here alone.
        u = evaluate.scores(signals["advantage"])[real]
        b = optimal_baseline(g, u, per_component=True)
        return -(weights[batch.episode_starts][real] @ (u - b * g))
