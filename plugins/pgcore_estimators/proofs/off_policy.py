"""Reference implementations of the off-policy estimators, which share no code with them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore_check.proof import Proof
from pgcore_check.reference.episode_sums import (
    backwards,
    episodes,
    final_values,
    joined,
    next_values,
    over_episodes,
    state_values,
)
from pgcore_check.reference.estimator_form import (
    EstimatorForm,
    Lift,
    LiftedEvaluate,
    Number,
    real_episodes,
    where,
)
from pgcore_estimators.preset_classes import (
    AWR,
    AveragedRatio,
    PerDecisionIS,
    TrajectoryIS,
    VTrace,
    WeightedIS,
)
from pgcore_estimators.proofs.advantages import (
    critic_advantages,
    normalise_batch,
    state_discounts,
)
from pgcore_estimators.proofs.kinks import AWR_KINKS, VTRACE_KINKS
from pgcore_estimators.proofs.ratios import log_ratios, old_log_probs

__all__ = ["PROOFS"]


class TrajectoryISForm(EstimatorForm):
    """The ratio of a whole episode times its return."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        rewards = lift(batch.rewards)
        to_go = backwards(
            batch,
            np.zeros(batch.num_episodes),
            lambda t, g_tp1: rewards[t] + g_tp1 * self.fields.gamma,
        )
        # The episode's return is that of its first step.
        return {
            "advantage": to_go[batch.episode_starts][batch.episode_of_step],
            "old_log_prob": old_log_probs(batch, evaluate, lift),
        }

    def policy(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        # Each of an episode's terms depends on every log pi of it.
        ratio = np.exp(
            over_episodes(inputs["log_prob"] - inputs["old_log_prob"], inputs["episode"])
        )
        term = -(inputs["advantage"] * ratio)
        return term, over_episodes(term, inputs["episode"])


class AveragedRatioForm(TrajectoryISForm):
    """Single steps' ratios times the episode's return."""

    def policy(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        term = -(inputs["advantage"] * np.exp(inputs["log_prob"] - inputs["old_log_prob"]))
        return term, term


class PerDecisionISForm(EstimatorForm):
    """Scores times the return of weighted rewards."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        gamma = self.fields.gamma
        log_weights = self.log_weights(batch, log_ratios(batch, evaluate, lift))
        rewards = np.exp(log_weights) * lift(batch.rewards)
        to_go = backwards(
            batch, np.zeros(batch.num_episodes), lambda t, g_tp1: rewards[t] + g_tp1 * gamma
        )
        if self.fields.discount_state:
            to_go = to_go * state_discounts(batch, gamma, lift)
        return {"advantage": to_go}

    def log_weights(self, batch: Batch, log_ratio: Number) -> Number:
        """Return [B] the logarithm of each reward's weight."""
        # One sum a step, where the estimator takes a cumulative sum.
        rows: list[Number] = []
        for steps in episodes(batch):
            for t in steps:
                upto = t + 1 if self.fields.ratio == "per_decision" else steps.stop
                rows.append(log_ratio[steps.start : upto].sum())
        return joined(rows)


class WeightedISForm(PerDecisionISForm):
    """Whole episodes' ratios over their mean."""

    def log_weights(self, batch: Batch, log_ratio: Number) -> Number:
        """See `PerDecisionISForm.log_weights`."""
        whole = joined([log_ratio[steps.start : steps.stop].sum() for steps in episodes(batch)])
        real = real_episodes(batch)
        # Without the estimator's factoring out: the kit's ratios do not overflow.
        mean = np.exp(whole[real]).sum() / len(real)
        return (whole - np.log(mean))[batch.episode_of_step]


class VTraceForm(EstimatorForm):
    """Targets as the sum over the steps to come, not as a recursion."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        f, rewards = self.fields, lift(batch.rewards)
        values, after = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
        ratio = np.exp(log_ratios(batch, evaluate, lift))
        rho = where(ratio > f.rho_bar, f.rho_bar, ratio)
        c = where(ratio > f.c_bar, f.c_bar, ratio) * f.trace_lambda
        ahead = next_values(batch, values, after)
        delta = rho * (rewards + ahead * f.gamma - values)
        # The trace is gamma^(k - t) times the product of c from t to k - 1.
        rows: list[Number] = []
        for steps in episodes(batch):
            for t in steps:
                total, trace = delta[t], c[t] * f.gamma
                for k in range(t + 1, steps.stop):
                    total, trace = total + trace * delta[k], trace * c[k] * f.gamma
                rows.append(values[t] + total)
        target = joined(rows)
        advantage = rho * (rewards + next_values(batch, target, after) * f.gamma - values)
        return {"advantage": advantage, "return_": target}


class AWRForm(EstimatorForm):
    """Log-likelihood weighted by exponentiated advantages."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        advantage, values = critic_advantages(batch, evaluate, lift, self.fields)
        # The target is of the advantage as it was before normalisation.
        return {
            "advantage": normalise_batch(advantage, batch, self.fields),
            "return_": advantage + values,
        }

    def policy(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        exponent, largest = inputs["advantage"] / self.fields.temperature, self.fields.max_weight
        weight = np.exp(where(exponent > math.log(largest), math.log(largest), exponent))
        return -(inputs["log_prob"] * weight), -weight


PROOFS = (
    Proof(
        VTrace,
        {
            # Limits on either side of 1, so that each is reached by some ratios only.
            "vtrace": {
                "gamma": 0.9,
                "rho_bar": 1.1,
                "c_bar": 0.9,
                "trace_lambda": 0.9,
                "reduction": "sum",
                "entropy_coefficient": 0.01,
            }
        },
        VTraceForm,
        VTRACE_KINKS,
    ),
    Proof(AWR, {"awr": {"gamma": 0.9, "temperature": 2.0, "max_weight": 3.0}}, AWRForm, AWR_KINKS),
    Proof(TrajectoryIS, {"trajectory is": {"gamma": 0.9}}, TrajectoryISForm),
    Proof(
        PerDecisionIS,
        {
            # Both ratios, states discounted or not.
            "per-decision is": {"gamma": 0.9, "discount_state": True},
            "reward-to-go is": {"gamma": 0.9, "ratio": "trajectory"},
        },
        PerDecisionISForm,
    ),
    Proof(WeightedIS, {"weighted is": {"gamma": 0.9}}, WeightedISForm),
    Proof(AveragedRatio, {"averaged ratio": {"gamma": 0.9}}, AveragedRatioForm),
)
