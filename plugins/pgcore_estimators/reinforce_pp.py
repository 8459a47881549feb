"""REINFORCE++: PPO's clipped ratio without a critic, advantages normalised over the whole batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Claims, Estimator, Evaluate
from pgcore.returns import by_group, episode_rewards, normalise, returns
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number, Positive, UnitInterval, choice
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_estimators.terms import (
    Ddof,
    Group,
    clipped_gain,
    clipped_gain_slope,
    is_clipped,
    log_bounds,
    old_log_probs,
    penalised_rewards,
)

__all__ = ["ReinforcePP"]


@dataclass(frozen=True)
class ReinforcePP(Estimator):
    """REINFORCE++: mean over all steps of -min(r A, clip(r) A), with A the rewards to come, normalised over the batch.

    Attributes:
        baseline: "none", or "group" to take the group's mean episode reward off first.
        clip: Of the ratio; positive.
        kl_coefficient: beta; each reward is lowered by beta (log mu - log pi_ref) of its action, with pi_ref's log-probabilities in the
            extra `reference_log_probs`. 0 leaves it out.
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
    name: ClassVar[str] = "reinforce_pp"
    sources: ClassVar[tuple[str, ...]] = ("Hu 2025, sec. 3, arXiv:2501.03262",)

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(
            unbiased=False,
            off_policy="none",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`."""
        g_t = returns(
            penalised_rewards(batch, evaluate, self.kl_coefficient),
            batch.episode_lengths,
            self.gamma,
        )
        if self.baseline == "group":
            mean = by_group(
                lambda members: np.full_like(members, members.mean()),
                episode_rewards(batch),
                batch,
                self.group,
            )
            g_t = g_t - mean[batch.episode_of_step]
        return {
            "advantage": normalise(g_t, batch.step_weights, ddof=self.ddof),
            "old_log_prob": old_log_probs(batch, evaluate),
        }

    def surrogate(
        self, xp: ArrayNamespace, *, log_prob: Native, old_log_prob: Native, advantage: Native
    ) -> Native:
        """See `Estimator.surrogate`."""
        return -clipped_gain(xp, log_prob - old_log_prob, advantage, self._bounds)

    def cotangents(
        self, *, log_prob: Array, old_log_prob: Array, advantage: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -clipped_gain_slope(log_prob - old_log_prob, advantage, self._bounds)}

    def clipped(self, log_ratio: Array, advantage: Array) -> Array:
        """See `Estimator.clipped`."""
        return is_clipped(log_ratio, advantage, self._bounds)

    @property
    def _bounds(self) -> tuple[float, float]:
        return log_bounds(self.clip, self.clip)
