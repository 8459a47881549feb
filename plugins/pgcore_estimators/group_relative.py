"""Group-relative policy optimisation: advantages from the rewards of a group's episodes, and clipped ratios.

An episode is an answer, a step a token, a group (`pgcore.groups`) the answers to one prompt. R is an episode's undiscounted reward, and
r the ratio of the current policy's probability of a step's action to that of the policy that acted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.checks import number, one_of, positive, set_field
from pgcore.errors import EstimatorError
from pgcore.estimator import Claims, Estimator, Evaluate, Reduction
from pgcore.groups import GROUPS, by_group, episode_rewards, group_of_episode, is_one_group
from pgcore.host import host
from pgcore.namespace import ArrayNamespace, Native
from pgcore.signals import centre, normalise
from pgcore_estimators.terms import (
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

    clip_low: float = 0.2
    clip_high: float = 0.2
    group: str = field(default="extra", kw_only=True)

    def __post_init__(self) -> None:
        """Check the fields."""
        one_of(f"{type(self).__name__}.group", self.group, GROUPS, EstimatorError)
        for name in ("clip_low", "clip_high"):
            set_field(self, name, positive(f"{type(self).__name__}.{name}", getattr(self, name), EstimatorError))

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=False, whole_episodes=True)

    @property
    def bounds(self) -> tuple[float, float]:
        """The logarithms of the ratio's bounds."""
        return log_bounds(self.clip_low, self.clip_high)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; the policy that acted is the batch's, or where it says nothing the current one."""
        advantage = by_group(self.relative, episode_rewards(batch), batch, self.group)
        return {"advantage": advantage[batch.episode_of_step], "old_log_prob": old_log_probs(batch, evaluate)}

    def relative(self, rewards: Array) -> Array:
        """Return [n] advantages of one group's episodes from their rewards; all 0 where the rewards are equal."""
        return centre(rewards)

    def metrics(self, *, log_prob: Array, old_log_prob: Array, advantage: Array, **others: Array) -> dict[str, float]:
        """See `Estimator.metrics`; `approx_kl` is the mean of r - 1 - log r, from samples."""
        log_ratio = log_prob - old_log_prob
        return {
            "approx_kl": float((np.expm1(log_ratio) - log_ratio).mean()),
            "clip_fraction": float(is_clipped(log_ratio, advantage, self.bounds).mean()),
        }


@dataclass(frozen=True)
class _Standardised(_GroupRelative):
    """R less the group's mean, over the group's standard deviation."""

    ddof: int = 1

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        one_of(f"{type(self).__name__}.ddof", self.ddof, (0, 1), EstimatorError)

    def relative(self, rewards: Array) -> Array:
        """See `_GroupRelative.relative`; an episode that is alone in its group has 0."""
        return normalise(rewards, ddof=self.ddof, noun="episode") if len(rewards) > 1 else 0.0 * rewards


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

    kl_coefficient: float = 0.0
    reduction = Reduction.EPISODE_STEP
    name: ClassVar[str] = "grpo"
    sources: ClassVar[tuple[str, ...]] = ("Shao et al. 2024, eqs. 3 and 4, arXiv:2402.03300",)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        where = f"{type(self).__name__}.kl_coefficient"
        set_field(self, "kl_coefficient", number(where, self.kl_coefficient, EstimatorError))

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
        self, *, log_prob: Array, old_log_prob: Array, advantage: Array, reference_log_prob: Array | None = None
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

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    reduction = Reduction.EPISODE_STEP  # a trajectory's terms are all the same
    name: ClassVar[str] = "gspo"
    sources: ClassVar[tuple[str, ...]] = ("Zheng et al. 2025, eqs. 5 to 7, arXiv:2507.18071",)

    def surrogate(
        self, xp: ArrayNamespace, *, log_prob: Native, old_log_prob: Native, advantage: Native, episode: Native
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

    def metrics(
        self, *, log_prob: Array, old_log_prob: Array, advantage: Array, episode: Array, **others: Array
    ) -> dict[str, float]:
        """See `_GroupRelative.metrics`; clipping is of whole trajectories."""
        log_ratio = host.episode_mean(log_prob - old_log_prob, episode)
        return super().metrics(log_prob=log_ratio, old_log_prob=np.zeros_like(log_ratio), advantage=advantage)


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

    clip_low: float = 1.0
    name: ClassVar[str] = "cispo"
    sources: ClassVar[tuple[str, ...]] = ("MiniMax 2025, eqs. 4 and 5, arXiv:2506.13585",)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; the mean over all steps becomes one over groups in the advantages, in which a term is linear."""
        found = dict(super().signals(batch, evaluate))
        if is_one_group(batch, self.group):  # which weighs what all steps do
            return found
        steps = batch.episode_lengths * (batch.episode_weights > 0)
        groups = len(np.unique(group_of_episode(batch, self.group)[steps > 0]))
        in_group = by_group(lambda members: np.full_like(members, members.sum()), steps, batch, self.group)
        share = steps.sum() / (groups * np.maximum(in_group, 1))
        found["advantage"] = found["advantage"] * share[batch.episode_of_step]
        return found

    def surrogate(self, xp: ArrayNamespace, *, log_prob: Native, old_log_prob: Native, advantage: Native) -> Native:
        """See `Estimator.surrogate`."""
        log_ratio = log_prob - old_log_prob
        held = xp.clip(log_ratio, *self.bounds)
        return -advantage * xp.exp(held) * (1.0 + log_ratio - held)

    def cotangents(self, *, log_prob: Array, old_log_prob: Array, advantage: Array) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -advantage * np.exp(np.clip(log_prob - old_log_prob, *self.bounds))}

    def metrics(self, *, log_prob: Array, old_log_prob: Array, advantage: Array, **others: Array) -> dict[str, float]:
        """See `_GroupRelative.metrics`; a ratio is clipped on either side, whichever way the advantage pushes."""
        found = super().metrics(log_prob=log_prob, old_log_prob=old_log_prob, advantage=advantage)
        low, high = self.bounds
        log_ratio = log_prob - old_log_prob
        return found | {"clip_fraction": float(((log_ratio < low) | (log_ratio > high)).mean())}
