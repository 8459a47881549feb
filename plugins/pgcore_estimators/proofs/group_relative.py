"""The group-relative estimators once more: written apart from the estimators, and sharing nothing with them."""

from __future__ import annotations

import math
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
    where,
)
from pgcore_estimators.group_relative import CISPO, GRPO, GSPO, DrGRPO
from pgcore_estimators.proofs.kinks import CISPO_KINKS, GSPO_KINKS
from pgcore_estimators.proofs.off_policy import old
from pgcore_estimators.reinforce_pp import ReinforcePP
from pgcore_estimators.rloo import RLOO

__all__ = ["PROOFS"]


def penalised(batch: Batch, evaluate: LiftedEvaluate, lift: Lift, beta: float) -> Number:
    """Return [B] rewards less beta (log mu - log pi_ref)."""
    rewards = lift(batch.rewards)
    if beta == 0:
        return rewards
    return rewards - (old(batch, evaluate, lift) - lift(batch.extras["reference_log_probs"])) * beta


def groups_of(batch: Batch, group: str) -> Array:
    """Return [E] the number of each episode's group: the extra's, or for "all" the same."""
    if group == "all":
        return np.zeros(batch.num_episodes, np.intp)
    return batch.extras["group"][batch.episode_starts]


def by_group(
    batch: Batch, group: str, rewards: Number, function: Callable[[int, list[int], Number], Number]
) -> Number:
    """Return [B] for each step what `function(episode, its group's episodes, [E] sums of rewards)` gives its episode; 0 for padding."""
    totals = joined([rewards[steps.start : steps.stop].sum() for steps in episodes(batch)])
    real = real_episodes(batch)
    numbers = groups_of(batch, group)
    rows: list[Number] = []
    for episode in range(batch.num_episodes):
        among = [other for other in real if numbers[other] == numbers[episode]]
        rows.append(function(episode, among, totals) if episode in real else totals[episode] * 0)
    return joined(rows)[batch.episode_of_step]


def clipped(
    named: Mapping[str, Number], log_ratio: Number, low: float, high: float
) -> tuple[Number, Number]:
    """Return [B] -min(r A, clip(r) A) and its derivatives in the log ratio."""
    advantage = named["advantage"]
    highest, lowest = math.log1p(high), math.log1p(-low) if low < 1 else -math.inf
    up = advantage >= 0
    past = (up & (log_ratio > highest)) | (~up & (log_ratio < lowest))
    gain = advantage * np.exp(where(past, where(up, highest, lowest), log_ratio))
    return -gain, -where(past, 0, gain)


class RLOOForm(EstimatorForm):
    """An episode's reward less the mean of the others of its group."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""

        def relative(episode: int, among: list[int], totals: Number) -> Number:
            others = [other for other in among if other != episode]
            return totals[episode] - totals[others].sum() / len(others)

        return {
            "advantage": by_group(
                batch,
                self.fields.group,
                penalised(batch, evaluate, lift, self.fields.kl_coefficient),
                relative,
            )
        }


class GRPOForm(EstimatorForm):
    """Standardised rewards, and single steps' ratios clipped."""

    standardised = True

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        found = {
            "advantage": by_group(batch, self.fields.group, lift(batch.rewards), self.relative),
            "old_log_prob": old(batch, evaluate, lift),
        }
        if getattr(self.fields, "kl_coefficient", 0) != 0:
            found["reference_log_prob"] = lift(batch.extras["reference_log_probs"])
        return found

    def relative(self, episode: int, among: list[int], totals: Number) -> Number:
        """Return an episode's advantage."""
        if not self.standardised or len(among) == 1:
            return totals[episode] - totals[among].sum() / len(among)
        return normalised(totals[among], np.ones(len(among), np.bool_), self.fields.ddof)[
            among.index(episode)
        ]

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        f = self.fields
        term, slope = clipped(
            named, named["log_prob"] - named["old_log_prob"], f.clip_low, f.clip_high
        )
        if "reference_log_prob" not in named:
            return term, slope
        gap = named["reference_log_prob"] - named["log_prob"]
        ratio = np.exp(gap)
        return term + (ratio - gap - 1) * f.kl_coefficient, slope - (ratio - 1) * f.kl_coefficient


class DrGRPOForm(GRPOForm):
    """Rewards less the group's mean."""

    standardised = False


class GSPOForm(GRPOForm):
    """The geometric mean of an episode's ratios, clipped."""

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`: all of an episode's terms move alike, by 1 / T with each log pi."""
        lengths = over_episodes(named["log_prob"] * 0 + 1, named["episode"])
        log_ratio = (
            over_episodes(named["log_prob"] - named["old_log_prob"], named["episode"]) / lengths
        )
        term, slope = clipped(named, log_ratio, self.fields.clip_low, self.fields.clip_high)
        return term, over_episodes(slope, named["episode"]) / lengths


class CISPOForm(GRPOForm):
    """The integral of the clipped ratio over log pi, and every group as much as another."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`: w_t = 1 / B becomes 1 / (groups x steps of the step's group)."""
        found = super().signals(batch, evaluate, lift)
        lengths, real = batch.episode_lengths, real_episodes(batch)
        groups = len(set(groups_of(batch, self.fields.group)[real].tolist()))

        def share(_: int, among: list[int], totals: Number) -> Number:
            return totals[0] * 0 + float(lengths[real].sum()) / float(groups * lengths[among].sum())

        return found | {
            "advantage": found["advantage"]
            * by_group(batch, self.fields.group, lift(batch.rewards), share)
        }

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        f, log_ratio = self.fields, named["log_prob"] - named["old_log_prob"]
        highest, lowest = (
            math.log1p(f.clip_high),
            math.log1p(-f.clip_low) if f.clip_low < 1 else -math.inf,
        )
        held = where(log_ratio > highest, highest, where(log_ratio < lowest, lowest, log_ratio))
        slope = -(named["advantage"] * np.exp(held))
        return slope * (log_ratio - held + 1), slope


class ReinforcePPForm(EstimatorForm):
    """Rewards to come, normalised over the batch, and single steps' ratios clipped."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        f, rewards = self.fields, penalised(batch, evaluate, lift, self.fields.kl_coefficient)
        to_come = backwards(
            batch, np.zeros(batch.num_episodes), lambda t, rest: rewards[t] + rest * f.gamma
        )
        if f.baseline == "group":
            to_come = to_come - by_group(
                batch,
                f.group,
                lift(batch.rewards),
                lambda _, among, totals: totals[among].sum() / len(among),
            )
        advantage = normalised(to_come, real_steps(batch), f.ddof)
        return {"advantage": advantage, "old_log_prob": old(batch, evaluate, lift)}

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        return clipped(
            named, named["log_prob"] - named["old_log_prob"], self.fields.clip, self.fields.clip
        )


EXTRAS = {
    # Episodes of one process are all comparable.
    "group": lambda mdp, _: np.zeros((mdp.states, mdp.actions), np.intp),
    # Half way to a uniform policy, so that a penalty for leaving it is one.
    "reference_log_probs": lambda mdp, behaviour: np.log(0.5 * behaviour + 0.5 / mdp.actions),
}
PROOFS = (
    Proof(RLOO, {"rloo": {"kl_coefficient": 0.1}}, RLOOForm, extras=EXTRAS),
    Proof(GRPO, {"grpo": {"kl_coefficient": 0.3}}, GRPOForm, extras=EXTRAS),
    Proof(DrGRPO, {"dr grpo": {"clip_high": 0.3}}, DrGRPOForm, extras=EXTRAS),
    Proof(GSPO, {"gspo": {"clip_low": 0.2, "clip_high": 0.3}}, GSPOForm, GSPO_KINKS, extras=EXTRAS),
    Proof(
        CISPO, {"cispo": {"clip_low": 0.1, "clip_high": 0.2}}, CISPOForm, CISPO_KINKS, extras=EXTRAS
    ),
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
