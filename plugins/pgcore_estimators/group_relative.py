"""Group-relative policy optimisation: advantages from the rewards of a group's episodes, and clipped ratios.

An episode is an answer, a step a token, a group (`pgcore.returns.groups`) the answers to one prompt. R is an episode's undiscounted reward, and
r the ratio of the current policy's probability of a step's action to that of the policy that acted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Claims, Estimator, Evaluate, Reduction
from pgcore.returns import (
    by_group,
    centre,
    episode_rewards,
    group_of_episode,
    is_one_group,
    normalise,
)
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number, Positive
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.terms import (
    Ddof,
    Group,
    clipped_gain,
    clipped_gain_slope,
    is_clipped,
    log_bounds,
    old_log_probs,
    reference_log_probs,
)

__all__ = ["CISPO", "GRPO", "GSPO", "DrGRPO"]


@dataclass(frozen=True)
class _GroupRelative(Estimator):
    """What the four have in common: R less the group's mean, and the bounds of the ratio."""

    clip_low: Positive = 0.2
    clip_high: Positive = 0.2
    group: Group = field(default="extra", kw_only=True)

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

    @property
    def bounds(self) -> tuple[float, float]:
        """The logarithms of the ratio's bounds."""
        return log_bounds(self.clip_low, self.clip_high)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; the policy that acted is the batch's, or where it says nothing the current one."""
        advantage = by_group(self.relative, episode_rewards(batch), batch, self.group)
        return {
            "advantage": advantage[batch.episode_of_step],
            "old_log_prob": old_log_probs(batch, evaluate),
        }

    def relative(self, rewards: Array) -> Array:
        """Return [n] advantages of one group's episodes from their rewards; all 0 where the rewards are equal."""
        return centre(rewards)

    def clipped(self, log_ratio: Array, advantage: Array) -> Array:
        """See `Estimator.clipped`."""
        return is_clipped(log_ratio, advantage, self.bounds)


@dataclass(frozen=True)
class _Standardised(_GroupRelative):
    """R less the group's mean, over the group's standard deviation."""

    ddof: Ddof = 1

    def relative(self, rewards: Array) -> Array:
        """See `_GroupRelative.relative`; an episode that is alone in its group has 0."""
        return (
            normalise(rewards, ddof=self.ddof, noun="episode")
            if len(rewards) > 1
            else 0.0 * rewards
        )


@dataclass(frozen=True)
class GRPO(_Standardised):
    """GRPO: mean over a trajectory's steps of -min(r A, clip(r) A), then over trajectories; A = (R - mean) / std of the group.

    Attributes:
        clip_low: r is held above 1 - clip_low.
        clip_high: r is held below 1 + clip_high.
        ddof: Of the standard deviation.
        group: Which episodes are compared: "extra" for those with one number in the batch's extra
            `group`, "all" for all of them.
        kl_coefficient: Of pi_ref / pi - log(pi_ref / pi) - 1, an estimate of KL(pi, pi_ref) from samples, with pi_ref's log-probabilities
            in the extra `reference_log_probs`. 0 leaves it out.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    kl_coefficient: Number = 0.0
    reduction = Reduction.EPISODE_STEP
    name: ClassVar[str] = "grpo"
    sources: ClassVar[tuple[str, ...]] = ("Shao et al. 2024, eqs. 3 and 4, arXiv:2402.03300",)

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return self.kl_coefficient != 0

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`."""
        found = super().signals(batch, evaluate)
        if self.kl_coefficient == 0:
            return found
        return {**found, "reference_log_prob": reference_log_probs(batch)}

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native,
        old_log_prob: Native,
        advantage: Native,
        reference_log_prob: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`."""
        gain = clipped_gain(xp, log_prob - old_log_prob, advantage, self.bounds)
        if reference_log_prob is None:
            return -gain
        gap = reference_log_prob - log_prob
        return self.kl_coefficient * (xp.exp(gap) - gap - 1.0) - gain

    def cotangents(
        self,
        *,
        log_prob: Array,
        old_log_prob: Array,
        advantage: Array,
        reference_log_prob: Array | None = None,
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        slope = -clipped_gain_slope(log_prob - old_log_prob, advantage, self.bounds)
        if reference_log_prob is not None:
            slope = slope - self.kl_coefficient * np.expm1(reference_log_prob - log_prob)
        return {"log_prob": slope}


@dataclass(frozen=True)
class DrGRPO(GRPO):
    """Dr. GRPO: GRPO without its two divisions, by the group's standard deviation and by the trajectory's length.

    A sum over a trajectory's steps, mean over trajectories; A = R - mean of the group, the own episode's reward included, which shrinks
    the gradient of G episodes by 1 - 1/G. Fields are those of `GRPO`; `ddof` is not read.
    """

    reduction = Reduction.TRAJECTORY
    name: ClassVar[str] = "dr_grpo"
    sources: ClassVar[tuple[str, ...]] = ("Liu et al. 2025, sec. 3.2, arXiv:2503.20783",)

    def relative(self, rewards: Array) -> Array:
        """See `_GroupRelative.relative`."""
        return centre(rewards)


@dataclass(frozen=True)
class GSPO(_Standardised):
    """GSPO: mean over trajectories of -min(s A, clip(s) A), with s the geometric mean of a trajectory's ratios.

    Attributes:
        clip_low: s is held above 1 - clip_low.
        clip_high: s is held below 1 + clip_high.
        ddof: Of the group's standard deviation in A = (R - mean) / std.
        group: Which episodes are compared: "extra" for those with one number in the batch's extra
            `group`, "all" for all of them.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    clip_low: Positive = 3e-4
    clip_high: Positive = 4e-4
    reduction = Reduction.EPISODE_STEP  # a trajectory's terms are all the same
    name: ClassVar[str] = "gspo"
    sources: ClassVar[tuple[str, ...]] = ("Zheng et al. 2025, eqs. 5 to 7, arXiv:2507.18071",)

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native,
        old_log_prob: Native,
        advantage: Native,
        episode: Native,
    ) -> Native:
        """See `Estimator.surrogate`."""
        log_ratio = xp.episode_mean(log_prob - old_log_prob, episode)
        return -clipped_gain(xp, log_ratio, advantage, self.bounds)

    def cotangents(
        self, *, log_prob: Array, old_log_prob: Array, advantage: Array, episode: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`: each of T equal terms moves by slope / T with each log pi."""
        log_ratio = host.episode_mean(log_prob - old_log_prob, episode)
        slope = clipped_gain_slope(log_ratio, advantage, self.bounds)
        return {"log_prob": -host.episode_mean(slope, episode)}

    def metric_inputs(self, **named: Array) -> dict[str, Array]:
        """See `Estimator.metric_inputs`: a ratio is the whole trajectory's, at each of its steps."""
        log_ratio = host.episode_mean(named["log_prob"] - named["old_log_prob"], named["episode"])
        return super().metric_inputs(
            **named | {"log_prob": log_ratio, "old_log_prob": np.zeros_like(log_ratio)}
        )


@dataclass(frozen=True)
class CISPO(_Standardised):
    """CISPO: mean over a group's steps of -c A log pi, then over groups, with c = clip(r) held constant: every step keeps a gradient.

    What is differentiated is the integral of -c A over log pi, which has that gradient at every policy and not at the old one alone: -A r
    within the bounds, and a straight line in log pi beyond them.

    Attributes:
        clip_low: r is held above 1 - clip_low; 1 is no bound.
        clip_high: r is held below 1 + clip_high.
        ddof: Of the group's standard deviation in A = (R - mean) / std.
        group: Which episodes are compared: "extra" for those with one number in the batch's extra
            `group`, "all" for all of them.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    clip_low: Positive = 1.0
    name: ClassVar[str] = "cispo"
    sources: ClassVar[tuple[str, ...]] = ("MiniMax 2025, eqs. 4 and 5, arXiv:2506.13585",)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; the mean over all steps becomes one over groups in the advantages, in which a term is linear."""
        found = dict(super().signals(batch, evaluate))
        if is_one_group(batch, self.group):  # which weighs what all steps do
            return found
        steps = batch.episode_lengths * (batch.episode_weights > 0)
        groups = len(np.unique(group_of_episode(batch, self.group)[steps > 0]))
        in_group = by_group(
            lambda members: np.full_like(members, members.sum()), steps, batch, self.group
        )
        share = steps.sum() / (groups * np.maximum(in_group, 1))
        found["advantage"] = found["advantage"] * share[batch.episode_of_step]
        return found

    def surrogate(
        self, xp: ArrayNamespace, *, log_prob: Native, old_log_prob: Native, advantage: Native
    ) -> Native:
        """See `Estimator.surrogate`."""
        log_ratio = log_prob - old_log_prob
        held = xp.clip(log_ratio, *self.bounds)
        return -advantage * xp.exp(held) * (1.0 + log_ratio - held)

    def cotangents(
        self, *, log_prob: Array, old_log_prob: Array, advantage: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -advantage * np.exp(np.clip(log_prob - old_log_prob, *self.bounds))}

    def clipped(self, log_ratio: Array, advantage: Array) -> Array:
        """See `Estimator.clipped`: on either side, whichever way the advantage pushes."""
        low, high = self.bounds
        return (log_ratio < low) | (log_ratio > high)
