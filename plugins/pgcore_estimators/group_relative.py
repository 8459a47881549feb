"""Group-relative policy optimisation: advantages from a group's rewards, and clipped ratios.

An episode is an answer, a step a token, a group (`pgcore.returns.groups`) the answers to one
prompt. R is an episode's undiscounted reward, and r = pi(a_t given s_t) / mu(a_t given s_t) the
ratio of the current policy to the behaviour policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate, Reduction
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
)

__all__ = ["CISPO", "GRPO", "GSPO", "DrGRPO"]


@dataclass(frozen=True)
class _GroupRelative(ClippedRatio):
    """The base of all four: A = R - mean of the group, and the bounds of the ratio."""

    # PPO's bounds; `group` is by keyword alone, so that subclasses add fields before it.
    clip_low: Positive = 0.2
    clip_high: Positive = 0.2
    group: Group = field(default="extra", kw_only=True)
    extras: ClassVar = {"group": GROUP}

    @property
    def bounds(self) -> tuple[float, float]:
        """See `ClippedRatio.bounds`."""
        return log_bounds(self.clip_low, self.clip_high)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; the behaviour policy is by default the current one."""
        advantage = by_group(self.relative, episode_rewards(batch), batch, self.group)
        return {
            "advantage": advantage[batch.episode_of_step],
            "old_log_prob": old_log_probs(batch, evaluate),
        }

    def relative(self, rewards: Array) -> Array:
        """Return [n] advantages of one group's episodes; all 0 if the rewards are equal."""
        return centre(rewards)


@dataclass(frozen=True)
class _Standardised(_GroupRelative):
    """A = (R - mean) / std of the group."""

    ddof: Ddof = 1

    def relative(self, rewards: Array) -> Array:
        """See `_GroupRelative.relative`; an episode that is alone in its group has 0."""
        # One reward has no standard deviation, and says nothing of this answer against another.
        if len(rewards) == 1:
            return 0.0 * rewards
        return normalise(rewards, ddof=self.ddof, noun="episode")


@dataclass(frozen=True)
class GRPO(_Standardised):
    """GRPO, with A = (R - mean) / std of the group.

    loss = mean over trajectories of (1/T) sum_t -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
           + beta (q - log q - 1),  q = pi_ref(a_t given s_t) / pi(a_t given s_t)

    The penalty is an estimate of KL(pi, pi_ref) from samples.

    Attributes:
        clip_low: r is held above 1 - clip_low.
        clip_high: r is held below 1 + clip_high.
        ddof: Of the standard deviation.
        group: Which episodes are compared: "extra" for those with one number in the batch's extra
            `group`, "all" for all of them.
        kl_coefficient: beta, with pi_ref's log-probabilities in the extra `reference_log_probs`.
            0 leaves it out.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    kl_coefficient: Number = 0.0
    extras: ClassVar = {"reference_log_probs": REFERENCE_LOG_PROBS}
    reduction = Reduction.EPISODE_STEP
    name: ClassVar[str] = "grpo"
    sources: ClassVar[tuple[str, ...]] = ("Shao et al. 2024, eqs. 3 and 4, arXiv:2402.03300",)

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`: the reference's log-probabilities, for the penalty."""
        return self.kl_coefficient != 0

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; with a penalty `reference_log_prob` too."""
        signals = super().signals(batch, evaluate)
        if self.kl_coefficient == 0:
            return signals
        return {**signals, "reference_log_prob": batch.extras["reference_log_probs"]}

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native,
        old_log_prob: Native,
        advantage: Native,
        reference_log_prob: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`: -min(r A, clip(r) A) + beta (q - log q - 1)."""
        gain = clipped_gain(xp, log_prob - old_log_prob, advantage, self.bounds)
        if reference_log_prob is None:
            return -gain
        # The gap is log q.
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
        # d (q - log q - 1) / d log pi = 1 - q; expm1 keeps its digits near the reference.
        if reference_log_prob is not None:
            slope = slope - self.kl_coefficient * np.expm1(reference_log_prob - log_prob)
        return {"log_prob": slope}


@dataclass(frozen=True)
class DrGRPO(GRPO):
    """Dr. GRPO: GRPO without division by standard deviation and by length; A = R - mean.

    loss = mean over trajectories of sum_t -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

    The mean over a group of G episodes includes the episode itself, which shrinks the gradient by
    1 - 1/G. Fields and penalty are those of `GRPO`; `ddof` is not read.
    """

    reduction = Reduction.TRAJECTORY
    name: ClassVar[str] = "dr_grpo"
    sources: ClassVar[tuple[str, ...]] = ("Liu et al. 2025, sec. 3.2, arXiv:2503.20783",)

    def relative(self, rewards: Array) -> Array:
        """See `_GroupRelative.relative`."""
        return centre(rewards)


@dataclass(frozen=True)
class GSPO(_Standardised):
    """GSPO, with the geometric mean s of a trajectory's ratios and A = (R - mean) / std of the group.

    loss = mean over trajectories of -min(s A, clip(s, 1 - clip_low, 1 + clip_high) A)
    s = exp((1/T) sum_t log r_t)

    Attributes:
        clip_low: s is held above 1 - clip_low.
        clip_high: s is held below 1 + clip_high.
        ddof: Of the standard deviation.
        group: Which episodes are compared: "extra" for those with one number in the batch's extra
            `group`, "all" for all of them.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    # Bounds of Zheng et al. 2025: the mean of T log ratios varies less than one does.
    clip_low: Positive = 3e-4
    clip_high: Positive = 4e-4
    # A trajectory's terms are all the same, so their mean is one of them.
    reduction = Reduction.EPISODE_STEP
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
        """See `Estimator.surrogate`: -min(s A, clip(s) A)."""
        log_ratio = xp.episode_mean(log_prob - old_log_prob, episode)
        return -clipped_gain(xp, log_ratio, advantage, self.bounds)

    def cotangents(
        self, *, log_prob: Array, old_log_prob: Array, advantage: Array, episode: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`: each of T equal terms moves by slope / T with each log pi."""
        log_ratio = host.episode_mean(log_prob - old_log_prob, episode)
        slope = clipped_gain_slope(log_ratio, advantage, self.bounds)
        return {"log_prob": -host.episode_mean(slope, episode)}

    def metric_inputs(self, **inputs: Array) -> dict[str, Array]:
        """See `Estimator.metric_inputs`: a ratio is the whole trajectory's, at each of its steps."""
        log_ratio = host.episode_mean(
            inputs["log_prob"] - inputs["old_log_prob"], inputs["episode"]
        )
        mean_ratio = {"log_prob": log_ratio, "old_log_prob": np.zeros_like(log_ratio)}
        return super().metric_inputs(**inputs | mean_ratio)


@dataclass(frozen=True)
class CISPO(_Standardised):
    """CISPO: every step keeps a gradient, of weight c = clip(r, 1 - clip_low, 1 + clip_high).

    loss = mean over groups of the mean over the group's steps of -c A log pi(a_t given s_t)

    c and A = (R - mean) / std of the group are held constant. The surrogate is the integral of
    -c A over log pi, with that gradient at every policy and not at the old one alone: -A r within
    the bounds, and a straight line in log pi beyond them.

    Attributes:
        clip_low: r is held above 1 - clip_low; 1 is no bound.
        clip_high: r is held below 1 + clip_high.
        ddof: Of the standard deviation.
        group: Which episodes are compared: "extra" for those with one number in the batch's extra
            `group`, "all" for all of them.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    clip_low: Positive = 1.0  # no lower bound, as in MiniMax 2025
    name: ClassVar[str] = "cispo"
    sources: ClassVar[tuple[str, ...]] = ("MiniMax 2025, eqs. 4 and 5, arXiv:2506.13585",)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; advantages are rescaled, for a mean over groups."""
        signals = dict(super().signals(batch, evaluate))
        # One group weighs all steps alike already.
        if is_one_group(batch, self.group):
            return signals
        steps = batch.episode_lengths * (batch.episode_weights > 0)
        groups = len(np.unique(group_of_episode(batch, self.group)[steps > 0]))
        group_steps = by_group(fill_with_sum, steps, batch, self.group)
        # The reduction weighs a step by 1 / B, where 1 / (groups x steps of its group) is due; a
        # term is linear in its advantage. The maximum is for padding, which has no steps.
        share = steps.sum() / (groups * np.maximum(group_steps, 1))
        signals["advantage"] = signals["advantage"] * share[batch.episode_of_step]
        return signals

    def surrogate(
        self, xp: ArrayNamespace, *, log_prob: Native, old_log_prob: Native, advantage: Native
    ) -> Native:
        """See `Estimator.surrogate`: -c A (1 + log r - log c), which is -A r within the bounds."""
        log_ratio = log_prob - old_log_prob
        held = xp.clip(log_ratio, *self.bounds)
        return -advantage * xp.exp(held) * (1.0 + log_ratio - held)

    def cotangents(
        self, *, log_prob: Array, old_log_prob: Array, advantage: Array
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`: -c A."""
        return {"log_prob": -advantage * np.exp(np.clip(log_prob - old_log_prob, *self.bounds))}

    def clipped(self, log_ratio: Array, advantage: Array) -> Array:
        """See `Estimator.clipped`: on either side, whichever way the advantage pushes."""
        low, high = self.bounds
        return (log_ratio < low) | (log_ratio > high)


def fill_with_sum(steps: Array) -> Array:
    """Return [n] the number of one group's steps, once for each episode."""
    return np.full_like(steps, steps.sum())
