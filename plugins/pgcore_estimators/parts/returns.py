"""Discounted returns to go, less a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.recorded import critic_values
from pgcore.parts import Advantage
from pgcore.returns import returns
from pgcore.validation.arrays import Array
from pgcore.validation.fields import UnitInterval, choice

__all__ = ["Returns"]


@dataclass(frozen=True)
class Returns(Advantage):
    """A_t = G_t - b_t, with G_t = r_t + gamma G_{t+1}, and R = G.

    With a critic, time limits bootstrap.

    Attributes:
        gamma: Discount in [0, 1].
        baseline: b: "none", or "value" for the critic's V(s_t).

    Raises:
        EstimatorError: a field has a value it cannot take.

    Example:
        >>> pg.estimator("policy_gradient", advantage=pg.Returns(0.9)).quantities
        ('log_prob',)
    """

    gamma: UnitInterval = 0.99
    baseline: Annotated[str, choice("none", "value")] = "none"
    name = "returns"
    sources = ("Williams 1992, Machine Learning 8, eq. 11",)

    @property
    def unbiased(self) -> bool:
        """See `Advantage`."""
        return True

    @property
    def needs_critic(self) -> bool:
        """See `Advantage`."""
        return self.baseline == "value"

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        if self.baseline == "none":
            return {"advantage": returns(rewards, batch.episode_lengths, self.gamma)}
        v_t, final = critic_values(batch, evaluate)
        g_t = returns(rewards, batch.episode_lengths, self.gamma, final)
        return {"advantage": g_t - v_t, "return_": g_t}
