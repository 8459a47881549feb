"""Actor-critic: advantages from a learned value function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.checks import count, number, one_of, set_field, unit_interval
from pgcore.errors import EstimatorError
from pgcore.estimator import Claims, Estimator, Evaluate, Reduction
from pgcore.namespace import ArrayNamespace, Native
from pgcore.signals import gae, n_step_returns, normalise
from pgcore_estimators.terms import bonus, bonus_cotangents, state_values

__all__ = ["ActorCritic"]


@dataclass(frozen=True)
class ActorCritic(Estimator):
    """Advantage actor-critic: mean over steps of -log pi A, plus value loss, less entropy bonus.

    Attributes:
        advantage: "gae", "td" (one-step TD error) or "n_step".
        n_steps: Rewards in an n-step return.
        gamma: Discount in [0, 1].
        gae_lambda: In [0, 1].
        value_coefficient: Of (V - R)^2 / 2, with R the advantage plus the old value.
        entropy_coefficient: Of the entropy bonus; 0 leaves it out.
        normalise: "none", or "batch" to give advantages mean 0 and standard deviation 1.
        ddof: Of that standard deviation.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    advantage: str = "gae"
    n_steps: int = 5
    gamma: float = 0.99
    gae_lambda: float = 0.95
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0
    normalise: str = "none"
    ddof: int = 1
    reduction: Reduction = Reduction.STEP
    name: ClassVar[str] = "actor_critic"
    sources: ClassVar[tuple[str, ...]] = (
        "Sutton and Barto 2018, sec. 13.5",
        "Mnih et al. 2016, algorithm S3, arXiv:1602.01783",
        "Schulman et al. 2016, eq. 16, arXiv:1506.02438",
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        one_of("ActorCritic.advantage", self.advantage, ("gae", "td", "n_step"), EstimatorError)
        set_field(self, "n_steps", count("ActorCritic.n_steps", self.n_steps, EstimatorError))
        for name in ("gamma", "gae_lambda"):
            set_field(self, name, unit_interval(f"ActorCritic.{name}", getattr(self, name), EstimatorError))
        for name in ("value_coefficient", "entropy_coefficient"):
            set_field(self, name, number(f"ActorCritic.{name}", getattr(self, name), EstimatorError))
        one_of("ActorCritic.normalise", self.normalise, ("none", "batch"), EstimatorError)
        one_of("ActorCritic.ddof", self.ddof, (0, 1), EstimatorError)
        set_field(self, "reduction", Reduction.of("ActorCritic.reduction", self.reduction))

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="none", needs_critic=True, discrete_only=False)

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return self.entropy_coefficient != 0

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `advantage` and the critic's target `return_`."""
        v_t, v_tp1 = state_values(batch, evaluate)
        r_t, lengths = batch.rewards, batch.episode_lengths
        if self.advantage == "gae":
            a_t = gae(r_t, v_t, v_tp1, lengths, self.gamma, self.gae_lambda)
            g_t = a_t + v_t
        else:
            g_t = n_step_returns(r_t, v_t, v_tp1, lengths, self.gamma, 1 if self.advantage == "td" else self.n_steps)
            a_t = g_t - v_t
        return {
            "advantage": normalise(a_t, batch.step_weights, ddof=self.ddof) if self.normalise == "batch" else a_t,
            "return_": g_t,
        }

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native,
        value: Native,
        advantage: Native,
        return_: Native,
        entropy: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`: -log pi A + c_v (V - R)^2 / 2 - c_e H."""
        return -log_prob * advantage + bonus(self.value_coefficient, self.entropy_coefficient, value, return_, entropy)

    def cotangents(
        self, *, log_prob: Array, value: Array, advantage: Array, return_: Array, entropy: Array | None = None
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -advantage} | bonus_cotangents(
            self.value_coefficient, self.entropy_coefficient, value, return_, entropy
        )

    def metrics(self, *, value: Array, return_: Array, **others: Array) -> dict[str, float]:
        """See `Estimator.metrics`."""
        error = value - return_
        found = {"value_loss": float(0.5 * (error * error).mean())}
        return found | ({"entropy": float(others["entropy"].mean())} if "entropy" in others else {})
