"""Importance sampling: the current policy's gradient from another policy's episodes.

The batch's `log_probs` are those of the behaviour policy mu. r_t = pi(a_t given s_t) / mu(a_t given
s_t) is the ratio of one step, r_{0:t} the product from the episode's first step to t, reward_t the
reward, and G = sum_t gamma^t reward_t an episode's return.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Claims, Estimator, Evaluate, Reduction
from pgcore.returns import cumulative_log_ratios, episode_returns, returns, state_discounts
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, UnitInterval, choice
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.terms import old_log_probs

__all__ = ["AveragedRatio", "PerDecisionIS", "TrajectoryIS", "WeightedIS"]


@dataclass(frozen=True)
class _OffPolicy(Estimator):
    """The base of all four: a discount, and whole episodes from any policy."""

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
class _EpisodeReturn(_OffPolicy):
    """The base of losses of ratios times the episode's return; each step's term counts 1/T."""

    reduction = Reduction.EPISODE_STEP

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `return_` is the whole episode's, at each of its steps."""
        g_t = returns(batch.rewards, batch.episode_lengths, batch.step_discounts(self.gamma))
        return {
            "return_": episode_returns(g_t, batch.episode_lengths)[batch.episode_of_step],
            "old_log_prob": old_log_probs(batch, evaluate),
        }


@dataclass(frozen=True)
class TrajectoryIS(_EpisodeReturn):
    """Trajectory importance sampling, with the ratio of whole episodes differentiated.

    loss = mean over episodes of -r_{0:T} G

    Attributes:
        gamma: Discount in [0, 1], from the episode's start.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    name: ClassVar[str] = "trajectory_is"
    sources: ClassVar[tuple[str, ...]] = (
        "Precup, Sutton and Singh 2000, eq. 4",
        "Tang and Abbeel 2010, eq. 3",
    )

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native,
        old_log_prob: Native,
        return_: Native,
        episode: Native,
    ) -> Native:
        """See `Estimator.surrogate`: -r_{0:T} G, at each of an episode's steps."""
        return -return_ * xp.exp(xp.episode_sum(log_prob - old_log_prob, episode))

    def cotangents(
        self, *, log_prob: Array, old_log_prob: Array, return_: Array, episode: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        # Each of an episode's T equal terms depends on every log pi of it.
        ratio = np.exp(host.episode_sum(log_prob - old_log_prob, episode))
        return {"log_prob": -host.episode_sum(return_ * ratio, episode)}


@dataclass(frozen=True)
class AveragedRatio(_EpisodeReturn):
    """Single steps' ratios in place of their product.

    loss = mean over episodes of -(1/T) sum_t r_t G

    Biased: it does not correct for the episode's other actions, which were the behaviour policy's
    too; `pdis` does.

    Attributes:
        gamma: Discount in [0, 1], from the episode's start.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    name: ClassVar[str] = "averaged_ratio"
    sources: ClassVar[tuple[str, ...]] = ("docs/formulas.md, row B10",)

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`; one ratio of T is no full correction."""
        return replace(super().claims, unbiased=False, off_policy="limited")

    def surrogate(
        self, xp: ArrayNamespace, *, log_prob: Native, old_log_prob: Native, return_: Native
    ) -> Native:
        """See `Estimator.surrogate`: -r_t G."""
        return -return_ * xp.exp(log_prob - old_log_prob)

    def cotangents(
        self, *, log_prob: Array, old_log_prob: Array, return_: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -return_ * np.exp(log_prob - old_log_prob)}


@dataclass(frozen=True)
class _WeighedScores(_OffPolicy):
    """The base of losses -log pi A, with ratios held constant in the advantage A."""

    discount_state: Flag = False
    reduction = Reduction.TRAJECTORY

    @abstractmethod
    def log_weights(self, batch: Batch, log_ratio_t: Array) -> Array:
        """Return [B] the logarithm of each reward's weight, from the steps' log ratios."""

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `advantage`, the return of weighted rewards from each step."""
        log_ratio = evaluate("log_prob")["log_prob"] - old_log_probs(batch, evaluate)
        rewards = np.exp(self.log_weights(batch, log_ratio)) * batch.rewards
        gamma = batch.step_discounts(self.gamma)
        g_t = returns(rewards, batch.episode_lengths, gamma)
        if self.discount_state:
            g_t = state_discounts(batch.episode_lengths, gamma) * g_t
        return {"advantage": g_t}

    def surrogate(self, xp: ArrayNamespace, *, log_prob: Native, advantage: Native) -> Native:
        """See `Estimator.surrogate`: -log pi A."""
        return -log_prob * advantage

    def cotangents(self, *, log_prob: Array, advantage: Array) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -advantage}


@dataclass(frozen=True)
class PerDecisionIS(_WeighedScores):
    """Per-decision importance sampling: a reward's weight is the ratio of the steps up to it.

    loss = mean over episodes of sum_t -log pi(a_t given s_t) A_t
    A_t = sum_{k >= t} gamma^(k - t) r_{0:k} reward_k, held constant

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
        log_ratio_0t = cumulative_log_ratios(log_ratio_t, batch.episode_lengths)
        if self.ratio == "per_decision":
            return log_ratio_0t
        return log_ratio_0t[batch.episode_ends][batch.episode_of_step]


@dataclass(frozen=True)
class WeightedIS(_WeighedScores):
    """Weighted importance sampling: whole episodes' ratios over their mean over the batch.

    loss = mean over episodes of sum_t -log pi(a_t given s_t) A_t
    A_t = (r_{0:T} / mean r_{0:T}) sum_{k >= t} gamma^(k - t) reward_k, held constant

    Biased, by as much as the mean ratio strays from 1. Its weights are bounded: no episode weighs
    more than the whole batch.

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
        """See `Estimator.claims`; the bias vanishes in large batches."""
        return replace(super().claims, unbiased=False)

    def log_weights(self, batch: Batch, log_ratio_t: Array) -> Array:
        """See `_WeighedScores.log_weights`."""
        log_ratio = cumulative_log_ratios(log_ratio_t, batch.episode_lengths)[batch.episode_ends]
        real = batch.episode_weights > 0
        # The largest is factored out of the mean first, so that no exponential overflows.
        largest = log_ratio[real].max()
        log_mean = largest + np.log(np.exp(log_ratio[real] - largest).mean())
        return np.where(real, log_ratio - log_mean, 0.0)[batch.episode_of_step]
