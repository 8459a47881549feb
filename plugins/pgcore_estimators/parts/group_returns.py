"""Discounted returns to go, less the mean reward of a group's episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.returns import centre, episode_rewards, leave_one_out_mean, returns
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, UnitInterval
from pgcore_estimators.parts.grouped import Centred

__all__ = ["GroupReturns"]


@dataclass(frozen=True)
class GroupReturns(Centred):
    """A_t = G_t - b, with G_t = r_t + gamma G_{t+1} and b the mean undiscounted reward of a group.

    A penalty in the reward is in G and not in b, which is of the task's rewards.

    Attributes:
        gamma: Discount in [0, 1].
        leave_one_out: Whether b is the mean over the group's other episodes.
        lone: b of an episode that is alone in its group: "zero" for its own reward, "raw" for 0, or
            "error".
        group, count_masked: See `GroupRelative`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 1.0
    leave_one_out: Flag = False
    name = "group_returns"
    sources = ("Hu 2025, sec. 3, arXiv:2501.03262 (REINFORCE++-baseline)",)

    @property
    def unbiased(self) -> bool:
        """See `Advantage`; a baseline that has the episode's own reward is not independent of it."""
        return self.leave_one_out and self.lone != "zero" and self.count_masked

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        g_t = returns(rewards, batch.episode_lengths, batch.step_discounts(self.gamma))
        totals = episode_rewards(batch)
        baseline = totals - self.by_group(totals, batch)
        advantage = g_t - baseline[batch.episode_of_step]
        return {"advantage": np.where(self.counted(batch)[batch.episode_of_step], advantage, 0.0)}

    def centred(self, rewards: Array, lengths: Array) -> Array:
        """See `Centred.centred`."""
        return rewards - leave_one_out_mean(rewards) if self.leave_one_out else centre(rewards)
