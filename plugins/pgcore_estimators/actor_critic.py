"""Actor-critic: advantages from a learned value function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import AnyReduction, Evaluate, Reduction
from pgcore.returns import n_step_returns
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Count, Number, UnitInterval, choice
from pgcore_estimators.critic_loss import ActorCriticLoss
from pgcore_estimators.terms import (
    Ddof,
    Normalisation,
    gae_and_returns,
    normalise_advantages,
    state_values,
)

__all__ = ["A2C", "ActorCritic"]


@dataclass(frozen=True)
class ActorCritic(ActorCriticLoss):
    """Advantage actor-critic: A from the critic, held constant.

    loss = mean over steps of -log pi(a_t given s_t) A_t + c_v (V(s_t) - R_t)^2 / 2 - c_e H_t

    Attributes:
        advantage: "gae", "td" (one-step TD error) or "n_step".
        n_steps: Rewards in an n-step return.
        gamma: Discount in [0, 1].
        gae_lambda: In [0, 1].
        value_coefficient: c_v, of the loss of V to R, the advantage plus the old value.
        entropy_coefficient: c_e, of the entropy bonus; 0 leaves it out.
        normalise: "none", or "batch" to give advantages mean 0 and standard deviation 1.
        ddof: Of that standard deviation.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    advantage: Annotated[str, choice("gae", "td", "n_step")] = "gae"
    n_steps: Count = 5  # t_max of Mnih et al. 2016
    gamma: UnitInterval = 0.99
    gae_lambda: UnitInterval = 0.95
    value_coefficient: Number = 0.5
    entropy_coefficient: Number = 0.0
    normalise: Normalisation = "none"
    ddof: Ddof = 1
    reduction: AnyReduction = Reduction.STEP
    name: ClassVar[str] = "actor_critic"
    sources: ClassVar[tuple[str, ...]] = (
        "Sutton and Barto 2018, sec. 13.5",
        "Mnih et al. 2016, algorithm S3, arXiv:1602.01783",
        "Schulman et al. 2016, eq. 16, arXiv:1506.02438",
    )

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `advantage` and the critic's target `return_`."""
        if self.advantage == "gae":
            a_t, g_t = gae_and_returns(batch, evaluate, self.gamma, self.gae_lambda)
        else:
            v_t, v_tp1 = state_values(batch, evaluate)
            # The TD error is the one-step return less V, so one recursion serves both.
            n_steps = 1 if self.advantage == "td" else self.n_steps
            g_t = n_step_returns(
                batch.rewards,
                v_t,
                v_tp1,
                batch.episode_lengths,
                batch.step_discounts(self.gamma),
                n_steps,
            )
            a_t = g_t - v_t
        # The target keeps reward units: it is made of the advantage before normalisation.
        advantage = normalise_advantages(batch, a_t, self.normalise, self.ddof)
        return {"advantage": advantage, "return_": g_t}


@dataclass(frozen=True)
class A2C(ActorCritic):
    """A2C, the synchronous A3C: bootstrapped returns to the rollout's end and an entropy bonus.

    The loss and the fields are those of `ActorCritic`; a rollout of n steps makes n-step returns.
    """

    # At lambda 1, GAE is the bootstrapped return less V; 0.01 is the paper's entropy coefficient.
    gae_lambda: UnitInterval = 1.0
    entropy_coefficient: Number = 0.01
    name: ClassVar[str] = "a2c"
    sources: ClassVar[tuple[str, ...]] = ("Mnih et al. 2016, algorithm S3, arXiv:1602.01783",)
