"""Advantages over a fixed number of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.parts import Advantage
from pgcore.returns import n_step_returns
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Count, UnitInterval
from pgcore_estimators.terms import state_values

__all__ = ["TD", "NStep"]


@dataclass(frozen=True)
class NStep(Advantage):
    """A_t = R_t - V(s_t), with R_t = r_t + ... + gamma^n V(s_{t+n}), shorter at an episode's end.

    Time limits bootstrap. V is recorded in the batch, or the current critic's.

    Attributes:
        gamma: Discount in [0, 1].
        n: Rewards to sum, at least 1.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 0.99
    n: Count = 5
    name = "n_step"
    sources = ("Sutton and Barto 2018, eq. 7.1", "Mnih et al. 2016, arXiv:1602.01783 (n = 5)")

    @property
    def needs_critic(self) -> bool:
        """See `Advantage`."""
        return True

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        v_t, v_tp1 = state_values(batch, evaluate)
        gamma = batch.step_discounts(self.gamma)
        g_t = n_step_returns(rewards, v_t, v_tp1, batch.episode_lengths, gamma, self.n)
        return {"advantage": g_t - v_t, "return_": g_t}


@dataclass(frozen=True)
class TD(Advantage):
    """A_t = r_t + gamma V(s_{t+1}) - V(s_t), R = A + V; `NStep` of one reward.

    Attributes:
        gamma: Discount in [0, 1].

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 0.99
    name = "td"
    sources = ("Sutton and Barto 2018, eq. 6.5",)

    @property
    def needs_critic(self) -> bool:
        """See `Advantage`."""
        return True

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        return NStep(self.gamma, 1).estimate(batch, rewards, evaluate)
