"""Importance sampling: the current policy's gradient from another policy's episodes.

The batch's `log_probs` are those of the policy that acted; r_t is the ratio of the current policy's probability to its, and
r_{0:t} the product from the episode's first step to t.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Claims, Estimator, Evaluate, Reduction
from pgcore.returns import cumulative_log_ratios, episode_returns, returns
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, UnitInterval, choice
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.terms import old_log_probs

__all__ = ["AveragedRatio", "PerDecisionIS", "TrajectoryIS", "WeightedIS"]


@dataclass(frozen=True)
class _OffPolicy(Estimator):
    """What the four have in common: a discount, and whole episodes from any policy."""

    gamma: UnitInterval = 0.99

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(
            unbiased=True,
            off_policy="exact",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )


@dataclass(frozen=True)
class TrajectoryIS(_OffPolicy):
    """Trajectory importance sampling: mean over episodes of -r_{0:T} R, the ratio of whole episodes differentiated.

    Attributes:
        gamma: Discount in [0, 1]; R is discounted from the episode's start.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    reduction = Reduction.EPISODE_STEP  # an episode's terms are all the same
    name: ClassVar[str] = "trajectory_is"
    sources: ClassVar[tuple[str, ...]] = (
        "Precup, Sutton and Singh 2000, eq. 4",
        "Tang and Abbeel 2010, eq. 3",
    )

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `return_` is the whole episode's, at each of its steps."""
        return {
            "return_": _whole_returns(batch, self.gamma),
            "old_log_prob": old_log_probs(batch, evaluate),
        }

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native,
        old_log_prob: Native,
        return_: Native,
        episode: Native,
    ) -> Native:
        """See `Estimator.surrogate`."""
        return -return_ * xp.exp(xp.episode_sum(log_prob - old_log_prob, episode))

    def cotangents(
        self, *, log_prob: Array, old_log_prob: Array, return_: Array, episode: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        ratio = np.exp(host.episode_sum(log_prob - old_log_prob, episode))
        return {"log_prob": -host.episode_sum(return_ * ratio, episode)}


@dataclass(frozen=True)
class AveragedRatio(_OffPolicy):
    """Mean over episodes of -(1/T) sum_t r_t R: single steps' ratios in place of their product.

    Biased: a step's action weighs the return although earlier and later ones were another policy's too. `pdis` corrects for those.

    Attributes:
        gamma: Discount in [0, 1]; R is discounted from the episode's start.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    reduction = Reduction.EPISODE_STEP
    name: ClassVar[str] = "averaged_ratio"

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(
            unbiased=False,
            off_policy="limited",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `TrajectoryIS.signals`."""
        return {
            "return_": _whole_returns(batch, self.gamma),
            "old_log_prob": old_log_probs(batch, evaluate),
        }

    def surrogate(
        self, xp: ArrayNamespace, *, log_prob: Native, old_log_prob: Native, return_: Native
    ) -> Native:
        """See `Estimator.surrogate`."""
        return -return_ * xp.exp(log_prob - old_log_prob)

    def cotangents(
        self, *, log_prob: Array, old_log_prob: Array, return_: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -return_ * np.exp(log_prob - old_log_prob)}


@dataclass(frozen=True)
class _WeighedScores(_OffPolicy):
    """Scores weighed by rewards whose ratios are held constant."""

    discount_state: Flag = False
    reduction = Reduction.TRAJECTORY

    @abstractmethod
    def log_weights(self, batch: Batch, log_ratio_t: Array) -> Array:
        """Return [B] the logarithm of what each step's reward is weighed by."""

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `advantage`, the rewards to come, each weighed and discounted."""
        log_ratio = evaluate("log_prob")["log_prob"] - old_log_probs(batch, evaluate)
        weighed = np.exp(self.log_weights(batch, log_ratio)) * batch.rewards
        to_come = returns(weighed, batch.episode_lengths, self.gamma)
        return {
            "advantage": self.gamma**batch.step_in_episode * to_come
            if self.discount_state
            else to_come
        }

    def surrogate(self, xp: ArrayNamespace, *, log_prob: Native, advantage: Native) -> Native:
        """See `Estimator.surrogate`."""
        return -log_prob * advantage

    def cotangents(self, *, log_prob: Array, advantage: Array) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -advantage}


@dataclass(frozen=True)
class PerDecisionIS(_WeighedScores):
    """Per-decision importance sampling: a reward is weighed by the ratios of the steps that led to it, and by no later ones.

    Attributes:
        gamma: Discount in [0, 1].
        discount_state: Weigh step t by gamma^t too; see `Reinforce`.
        ratio: "per_decision", or "trajectory" to weigh every reward to come with the whole episode's ratio.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    ratio: Annotated[str, choice("per_decision", "trajectory")] = "per_decision"
    name: ClassVar[str] = "pdis"
    sources: ClassVar[tuple[str, ...]] = ("Precup, Sutton and Singh 2000, eq. 6",)

    def log_weights(self, batch: Batch, log_ratio_t: Array) -> Array:
        """See `_WeighedScores.log_weights`."""
        so_far = cumulative_log_ratios(log_ratio_t, batch.episode_lengths)
        return (
            so_far
            if self.ratio == "per_decision"
            else so_far[batch.episode_ends][batch.episode_of_step]
        )


@dataclass(frozen=True)
class WeightedIS(_WeighedScores):
    """Weighted importance sampling: the ratios of whole episodes, divided by their mean over the batch.

    Biased, by as much as the mean ratio strays from 1, and of bounded weights: no episode weighs more than the whole batch.

    Attributes:
        gamma: Discount in [0, 1].
        discount_state: Weigh step t by gamma^t too; see `Reinforce`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    name: ClassVar[str] = "wis"
    sources: ClassVar[tuple[str, ...]] = ("Precup, Sutton and Singh 2000, eq. 5",)

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(
            unbiased=False,
            off_policy="exact",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )

    def log_weights(self, batch: Batch, log_ratio_t: Array) -> Array:
        """See `_WeighedScores.log_weights`."""
        whole = cumulative_log_ratios(log_ratio_t, batch.episode_lengths)[batch.episode_ends]
        real = batch.episode_weights > 0
        largest = whole[real].max()  # taken out first, so that no exponential overflows
        mean = largest + np.log(np.exp(whole[real] - largest).mean())
        return np.where(real, whole - mean, 0.0)[batch.episode_of_step]


def _whole_returns(batch: Batch, gamma: float) -> Array:
    """Return [B] each episode's return from its start, at each of its steps."""
    g_t = returns(batch.rewards, batch.episode_lengths, gamma)
    return episode_returns(g_t, batch.episode_lengths)[batch.episode_of_step]
