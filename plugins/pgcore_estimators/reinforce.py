"""REINFORCE: the score function times the return, less a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Self, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import AnyReduction, Claims, Evaluate, Reduction
from pgcore.interfaces.recorded import critic_values
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.returns import episode_returns, leave_one_out_mean, optimal_baseline, returns
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, Number, UnitInterval, choice
from pgcore_estimators.actor_critic import ActorCriticLoss
from pgcore_estimators.terms import Ddof, Normalisation, normalised

__all__ = ["ComponentBaseline", "Reinforce"]

PER_COMPONENT = "optimal_per_component"
BASELINES = ("none", "constant", "mean", "leave_one_out", "optimal", PER_COMPONENT, "value")
Baseline = Annotated[str, choice(*BASELINES)]


@dataclass(frozen=True)
class Reinforce(ActorCriticLoss):
    """REINFORCE: sum over a trajectory's steps of log pi times (return - baseline), mean over trajectories.

    Attributes:
        gamma: Discount in [0, 1].
        reward_to_go: Weigh a step with the rewards from it on, discounted from it (causality); False weighs every step with the
            whole episode's return.
        baseline: What is subtracted from the return. "none"; "constant" (`baseline_value`); "mean" over the batch's episodes, the
            own one included, which shrinks the gradient, at gamma 1 or with the whole episode's return by exactly 1 - 1/N;
            "leave_one_out", the mean of the others, unbiased; "optimal", the scalar E[|g|^2 R] / E[|g|^2] of the others;
            "optimal_per_component", the same for each parameter by itself; "value", the critic's V(s_t).
        baseline_value: The constant, reward units.
        discount_state: Weigh step t by gamma^t too, as the exact gradient of the discounted return does; with the whole
            episode's return it changes nothing, for that discounts from the start already.
        value_coefficient: Of (V - R)^2 / 2, with baseline "value".
        entropy_coefficient: Of the entropy bonus; 0 leaves it out.
        normalise: "none", or "batch" to give advantages mean 0 and standard deviation 1, which is biased.
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

    def __new__(cls, *values: Any, **named: Any) -> Self:
        """Return an instance of the subclass where the baseline is one for each parameter."""
        hyper_parameters = (
            dict(zip((field.name for field in fields(cls)), values, strict=False)) | named
        )
        by_component = cls is Reinforce and hyper_parameters.get("baseline") == PER_COMPONENT
        return object.__new__(cast("type[Self]", ComponentBaseline) if by_component else cls)

    def __post_init__(self) -> None:
        """Check the fields, and that the baseline goes with them."""
        super().__post_init__()
        if self.baseline == PER_COMPONENT and not isinstance(self, ScoreEstimator):
            raise EstimatorError(
                f"{type(self).__name__}.baseline: expected another than {PER_COMPONENT!r}, which a ScoreEstimator combines, got it; "
                "derive from ComponentBaseline"
            )
        if self.baseline == PER_COMPONENT and (
            self.entropy_coefficient != 0 or self.normalise != "none"
        ):
            raise EstimatorError(
                "Reinforce.baseline: expected entropy_coefficient=0 and normalise='none' with 'optimal_per_component', got others; "
                "this baseline weighs scores alone, so choose 'optimal' to combine it"
            )

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        plain = (
            self.normalise == "none"
            and self.entropy_coefficient == 0
            and self.reduction is Reduction.TRAJECTORY
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
        return self.baseline == "value" if name in ("value", "return_") else super().uses(name)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `advantage`, and with a critic its target `return_`."""
        if self.baseline == "value":
            v_t, final = critic_values(batch, evaluate)
            target = returns(batch.rewards, batch.episode_lengths, self.gamma, final)
            g_t = self._returns(batch, final)
            return {"advantage": self._advantage(batch, g_t, v_t), "return_": target}
        g_t = self._returns(batch)
        return {"advantage": self._advantage(batch, g_t, self._baseline(batch, g_t, evaluate))}

    def _returns(self, batch: Batch, final_value: Array | None = None) -> Array:
        g_t = returns(batch.rewards, batch.episode_lengths, self.gamma, final_value)
        return (
            g_t
            if self.reward_to_go
            else episode_returns(g_t, batch.episode_lengths)[batch.episode_of_step]
        )

    def _advantage(self, batch: Batch, g_t: Array, baseline: Array | float) -> Array:
        advantage = normalised(batch, g_t - baseline, self.normalise, self.ddof)
        discount = self._discount(batch)
        return advantage if discount is None else discount * advantage

    def _discount(self, batch: Batch) -> Array | None:
        return (
            self.gamma**batch.step_in_episode if self.discount_state and self.reward_to_go else None
        )

    def _baseline(self, batch: Batch, g_t: Array, evaluate: Evaluate) -> Array | float:
        """Return one number for all steps, or [B]."""
        if self.baseline == "constant":
            return self.baseline_value
        if self.baseline in ("none", PER_COMPONENT):
            return 0
        real = batch.episode_weights > 0
        episode_return = episode_returns(g_t, batch.episode_lengths)
        by_episode = np.zeros(batch.num_episodes, g_t.dtype)
        if self.baseline == "mean":
            by_episode[real] = episode_return[real].mean()
        elif self.baseline == "leave_one_out":
            by_episode[real] = leave_one_out_mean(episode_return[real])
        else:
            discount = self._discount(batch)
            g, u = (
                evaluate.scores(discount)[real],
                evaluate.scores(g_t if discount is None else discount * g_t)[real],
            )
            by_episode[real] = optimal_baseline(g, u, per_component=False)[:, 0]
        return by_episode[batch.episode_of_step]


@dataclass(frozen=True)
class ComponentBaseline(ScoreEstimator, Reinforce):
    """REINFORCE with baseline "optimal_per_component": each parameter's own, so it is made of scores; see `Reinforce`."""

    baseline: Baseline = PER_COMPONENT
    section = "Reinforce"

    def __post_init__(self) -> None:
        """Check the fields, and that the baseline is the one that this class is for."""
        super().__post_init__()
        if self.baseline != PER_COMPONENT:
            raise EstimatorError(
                f"ComponentBaseline.baseline: expected {PER_COMPONENT!r}, got {self.baseline!r}; make a Reinforce"
            )

    def combine(
        self, batch: Batch, evaluate: Evaluate, signals: Mapping[str, Array], weights: Array
    ) -> Array:
        """See `ScoreEstimator.combine`: -sum_e w_e (u_e - b_e g_e), the baseline b_e estimated for each parameter from the other episodes."""
        real = batch.episode_weights > 0
        g, u = (
            evaluate.scores(self._discount(batch))[real],
            evaluate.scores(signals["advantage"])[real],
        )
        b = optimal_baseline(g, u, per_component=True)
        return -(weights[batch.episode_starts][real] @ (u - b * g))
