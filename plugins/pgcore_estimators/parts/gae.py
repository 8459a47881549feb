"""Generalised advantage estimates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.parts import Advantage
from pgcore.returns import gae
from pgcore.validation.arrays import Array
from pgcore.validation.fields import UnitInterval
from pgcore_estimators.terms import state_values

__all__ = ["GAE"]


@dataclass(frozen=True)
class GAE(Advantage):
    """A_t = sum_k (gamma lambda)^k (r_{t+k} + gamma V(s_{t+k+1}) - V(s_{t+k})), R = A + V.

    Time limits bootstrap. V is recorded in the batch, or the current critic's.

    Attributes:
        gamma: Discount in [0, 1].
        gae_lambda: lambda, in [0, 1].

    Raises:
        EstimatorError: a field has a value it cannot take.

    Example:
        >>> pg.estimator("policy_gradient", advantage=pg.GAE(0.99, 0.9)).claims.needs_critic
        True
    """

    gamma: UnitInterval = 0.99
    gae_lambda: UnitInterval = 0.95
    name = "gae"
    sources = ("Schulman et al. 2016, eq. 16, arXiv:1506.02438",)

    @property
    def needs_critic(self) -> bool:
        """See `Advantage`."""
        return True

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        v_t, v_tp1 = state_values(batch, evaluate)
        a_t = gae(rewards, v_t, v_tp1, batch.episode_lengths, self.gamma, self.gae_lambda)
        return {"advantage": a_t, "return_": a_t + v_t}
