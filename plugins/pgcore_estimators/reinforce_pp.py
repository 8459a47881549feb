"""REINFORCE++: PPO's clipped ratio without a critic, advantages normalised over the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.returns import by_group, episode_rewards, normalise, returns
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number, Positive, UnitInterval, choice
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_estimators.clipped_ratio import ClippedRatio
from pgcore_estimators.terms import (
    GROUP,
    REFERENCE_LOG_PROBS,
    Ddof,
    Group,
    clipped_gain,
    clipped_gain_slope,
    log_bounds,
    old_log_probs,
    penalised_rewards,
)

__all__ = ["ReinforcePP"]


@dataclass(frozen=True)
class ReinforcePP(ClippedRatio):
    """REINFORCE++, with r = pi(a_t given s_t) / mu(a_t given s_t).

    loss = mean over all steps of -min(r A, clip(r, 1 - clip, 1 + clip) A)
    A_t = (G_t - mean) / std over the batch's steps, with G_t the discounted rewards from t on

    Attributes:
        baseline: "none", or "group" to subtract the group's mean episode reward from G first.
        clip: Of the ratio; positive.
        kl_coefficient: beta; each reward is lowered by beta (log mu - log pi_ref) of its action,
            with pi_ref's log-probabilities in the extra `reference_log_probs`. 0 leaves it out.
        gamma: Discount in [0, 1].
        ddof: Of the batch's standard deviation.
        group: Which episodes have one mean: "extra" for those with one number in the batch's extra
            `group`, "all" for all of them.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    baseline: Annotated[str, choice("none", "group")] = "none"
    clip: Positive = 0.2
    kl_coefficient: Number = 0.0
    gamma: UnitInterval = 1.0
    ddof: Ddof = 1
    group: Group = "extra"
    extras: ClassVar = {
        "group": replace(GROUP, when=lambda pp: pp.baseline == "group" and pp.group == "extra"),
        "reference_log_probs": REFERENCE_LOG_PROBS,
    }
    name: ClassVar[str] = "reinforce_pp"
    sources: ClassVar[tuple[str, ...]] = ("Hu 2025, sec. 3, arXiv:2501.03262",)

    @property
    def bounds(self) -> tuple[float, float]:
        """See `ClippedRatio.bounds`."""
        return log_bounds(self.clip, self.clip)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `advantage` and `old_log_prob`."""
        rewards = penalised_rewards(batch, evaluate, self.kl_coefficient)
        g_t = returns(rewards, batch.episode_lengths, batch.step_discounts(self.gamma))
        # The baseline is of the task's rewards: the penalty differs from token to token.
        if self.baseline == "group":
            mean = by_group(fill_with_mean, episode_rewards(batch), batch, self.group)
            g_t = g_t - mean[batch.episode_of_step]
        return {
            "advantage": normalise(g_t, batch.step_weights, ddof=self.ddof),
            "old_log_prob": old_log_probs(batch, evaluate),
        }

    def surrogate(
        self, xp: ArrayNamespace, *, log_prob: Native, old_log_prob: Native, advantage: Native
    ) -> Native:
        """See `Estimator.surrogate`: -min(r A, clip(r) A)."""
        return -clipped_gain(xp, log_prob - old_log_prob, advantage, self.bounds)

    def cotangents(
        self, *, log_prob: Array, old_log_prob: Array, advantage: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -clipped_gain_slope(log_prob - old_log_prob, advantage, self.bounds)}


def fill_with_mean(rewards: Array) -> Array:
    """Return [n] the mean of one group's episode rewards, once for each episode."""
    return np.full_like(rewards, rewards.mean())
