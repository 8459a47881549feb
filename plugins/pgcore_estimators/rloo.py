"""RLOO: REINFORCE with the mean reward of the group's other episodes as the baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Claims, Estimator, Evaluate, Reduction
from pgcore.returns import by_group, episode_rewards, leave_one_out_mean
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_estimators.terms import GROUP, REFERENCE_LOG_PROBS, Group, penalised_rewards

__all__ = ["RLOO"]


@dataclass(frozen=True)
class RLOO(Estimator):
    """REINFORCE leave-one-out, with R an episode's undiscounted reward.

    loss = mean over episodes of sum_t -log pi(a_t given s_t) A
    A = R - mean of R over the group's other episodes, of which there is at least one

    For groups see `pgcore.returns.groups`.

    Attributes:
        kl_coefficient: beta; each reward is lowered by beta (log mu - log pi_ref) of its action,
            with pi_ref's log-probabilities in the extra `reference_log_probs`. 0 leaves it out.
        group: Which episodes are compared: "extra" for those with one number in the batch's extra
            `group`, "all" for all of them.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    kl_coefficient: Number = 0.0
    group: Group = "extra"
    extras: ClassVar = {"group": GROUP, "reference_log_probs": REFERENCE_LOG_PROBS}
    reduction = Reduction.TRAJECTORY
    name: ClassVar[str] = "rloo"
    sources: ClassVar[tuple[str, ...]] = (
        "Ahmadian et al. 2024, eq. 8, arXiv:2402.14740",
        "Kool, van Hoof and Welling 2019",
    )

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        # The penalty's gradient is not that of the rewards' expectation alone.
        return Claims(
            unbiased=self.kl_coefficient == 0,
            off_policy="none",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `advantage`, one number for all steps of an episode."""
        rewards = episode_rewards(batch, penalised_rewards(batch, evaluate, self.kl_coefficient))
        advantage = by_group(
            lambda members: members - leave_one_out_mean(members), rewards, batch, self.group
        )
        return {"advantage": advantage[batch.episode_of_step]}

    def surrogate(self, xp: ArrayNamespace, *, log_prob: Native, advantage: Native) -> Native:
        """See `Estimator.surrogate`: -log pi A."""
        return -log_prob * advantage

    def cotangents(self, *, log_prob: Array, advantage: Array) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -advantage}
