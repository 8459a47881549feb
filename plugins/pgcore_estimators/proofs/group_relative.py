"""Reference implementations of the group-relative estimators, which share no code with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore_check.proof import Proof
from pgcore_check.reference.episode_sums import (
    backwards,
    episodes,
    joined,
    normalised,
    over_episodes,
)
from pgcore_check.reference.estimator_form import (
    EstimatorForm,
    Lift,
    LiftedEvaluate,
    Number,
    real_episodes,
    real_steps,
)
from pgcore_estimators.preset_classes import CISPO, GRPO, GSPO, RLOO, DrGRPO, ReinforcePP
from pgcore_estimators.proofs.kinks import CISPO_KINKS, GSPO_KINKS
from pgcore_estimators.proofs.ratios import clipped_loss, limit, log_bounds, old_log_probs

__all__ = ["PROOFS"]


def penalised(batch: Batch, evaluate: LiftedEvaluate, lift: Lift, beta: float) -> Number:
    """Return [B] rewards less beta (log mu - log pi_ref)."""
    rewards = lift(batch.rewards)
    if beta == 0:
        return rewards
    reference = lift(batch.extras["reference_log_probs"])
    return rewards - (old_log_probs(batch, evaluate, lift) - reference) * beta


def groups_of(batch: Batch, group: str) -> Array:
    """Return [E] integer, the number of each episode's group."""
    if group == "all":
        return np.zeros(batch.num_episodes, np.intp)
    return batch.extras["group"][batch.episode_starts]


def by_group(
    batch: Batch, group: str, rewards: Number, function: Callable[[int, list[int], Number], Number]
) -> Number:
    """Return [B] for each step a number of its episode; 0 for padding.

    Args:
        batch: The episodes.
        group: "extra" or "all"; see `groups_of`.
        rewards: [B].
        function: Of an episode, the list of its group's episodes and [E] sums of rewards.
    """
    totals = joined([rewards[steps.start : steps.stop].sum() for steps in episodes(batch)])
    real = real_episodes(batch)
    numbers = groups_of(batch, group)
    rows: list[Number] = []
    for episode in range(batch.num_episodes):
        # Padding is in no group, so that it changes no mean.
        among = [i for i in real if numbers[i] == numbers[episode]]
        rows.append(function(episode, among, totals) if episode in real else totals[episode] * 0)
    return joined(rows)[batch.episode_of_step]


class RLOOForm(EstimatorForm):
    """An episode's reward less the mean over the group's other episodes."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""

        def relative(episode: int, among: list[int], totals: Number) -> Number:
            peers = [i for i in among if i != episode]
            return totals[episode] - totals[peers].sum() / len(peers)

        rewards = penalised(batch, evaluate, lift, self.fields.kl_coefficient)
        return {"advantage": by_group(batch, self.fields.group, rewards, relative)}


class GRPOForm(EstimatorForm):
    """Standardised rewards, and single steps' ratios clipped."""

    standardised = True

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        signals = {
            "advantage": by_group(batch, self.fields.group, lift(batch.rewards), self.relative),
            "old_log_prob": old_log_probs(batch, evaluate, lift),
        }
        if self.fields.kl_coefficient != 0:
            signals["reference_log_prob"] = lift(batch.extras["reference_log_probs"])
        return signals

    def relative(self, episode: int, among: list[int], totals: Number) -> Number:
        """Return an episode's advantage."""
        # The only episode of a group has no deviation; less its mean it is 0.
        if not self.standardised or len(among) == 1:
            return totals[episode] - totals[among].sum() / len(among)
        return normalised(totals[among], np.ones(len(among), np.bool_), self.fields.ddof)[
            among.index(episode)
        ]

    def policy(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        f, log_ratio = self.fields, inputs["log_prob"] - inputs["old_log_prob"]
        term, slope = clipped_loss(inputs, log_ratio, f.clip_low, f.clip_high)
        if "reference_log_prob" not in inputs:
            return term, slope
        # With q = pi_ref / pi the penalty is q - log q - 1, its derivative 1 - q.
        gap = inputs["reference_log_prob"] - inputs["log_prob"]
        ratio = np.exp(gap)
        return term + (ratio - gap - 1) * f.kl_coefficient, slope - (ratio - 1) * f.kl_coefficient


class DrGRPOForm(GRPOForm):
    """Rewards less the group's mean."""

    standardised = False


class GSPOForm(GRPOForm):
    """The geometric mean of an episode's ratios, clipped."""

    def policy(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        # All of an episode's T terms are equal, and depend on each log pi by 1 / T.
        lengths = over_episodes(inputs["log_prob"] * 0 + 1, inputs["episode"])
        log_ratio = (
            over_episodes(inputs["log_prob"] - inputs["old_log_prob"], inputs["episode"]) / lengths
        )
        term, slope = clipped_loss(inputs, log_ratio, self.fields.clip_low, self.fields.clip_high)
        return term, over_episodes(slope, inputs["episode"]) / lengths


class CISPOForm(GRPOForm):
    """The integral of the clipped ratio over log pi."""

    def policy(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        f, log_ratio = self.fields, inputs["log_prob"] - inputs["old_log_prob"]
        held = limit(log_ratio, *log_bounds(f.clip_low, f.clip_high))
        # Beyond the bounds a straight line in log pi, of the slope at the bound.
        slope = -(inputs["advantage"] * np.exp(held))
        return slope * (log_ratio - held + 1), slope


class ReinforcePPForm(EstimatorForm):
    """Returns normalised over the batch, and single steps' ratios clipped."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        f, rewards = self.fields, penalised(batch, evaluate, lift, self.fields.kl_coefficient)
        g_t = backwards(
            batch, np.zeros(batch.num_episodes), lambda t, g_tp1: rewards[t] + g_tp1 * f.gamma
        )
        # The baseline is of rewards without the penalty.
        if f.baseline == "group":
            g_t = g_t - by_group(batch, f.group, lift(batch.rewards), group_mean)
        return {
            "advantage": normalised(g_t, real_steps(batch), f.ddof),
            "old_log_prob": old_log_probs(batch, evaluate, lift),
        }

    def policy(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        clip = self.fields.clip
        return clipped_loss(inputs, inputs["log_prob"] - inputs["old_log_prob"], clip, clip)


def group_mean(_: int, among: list[int], totals: Number) -> Number:
    """Return the mean reward of a group's episodes."""
    return totals[among].sum() / len(among)


EXTRAS = {
    # Half way to a uniform policy, so that a penalty for leaving it is one.
    "reference_log_probs": lambda mdp, behaviour: np.log(0.5 * behaviour + 0.5 / mdp.actions),
}
PROOFS = (
    Proof(RLOO, {"rloo": {"kl_coefficient": 0.1}}, RLOOForm, extras=EXTRAS),
    Proof(GRPO, {"grpo": {"kl_coefficient": 0.3}}, GRPOForm, extras=EXTRAS),
    Proof(DrGRPO, {"dr grpo": {"clip_high": 0.3}}, DrGRPOForm, extras=EXTRAS),
    Proof(GSPO, {"gspo": {"clip_low": 0.2, "clip_high": 0.3}}, GSPOForm, GSPO_KINKS),
    Proof(CISPO, {"cispo": {"clip_low": 0.1, "clip_high": 0.2}}, CISPOForm, CISPO_KINKS),
    Proof(
        ReinforcePP,
        {
            "reinforce++": {"gamma": 0.95, "kl_coefficient": 0.1},
            "reinforce++ group": {"baseline": "group"},
        },
        ReinforcePPForm,
        extras=EXTRAS,
    ),
)
