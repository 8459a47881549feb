"""The off-policy estimators once more: written apart from the estimators, and sharing nothing with them."""

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
    gae,
    joined,
    next_values,
    normalised,
    over_episodes,
    state_values,
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
from pgcore_estimators.awr import AWR
from pgcore_estimators.importance_sampling import (
    AveragedRatio,
    PerDecisionIS,
    TrajectoryIS,
    WeightedIS,
)
from pgcore_estimators.proofs.kinks import AWR_KINKS, VTRACE_KINKS
from pgcore_estimators.vtrace import VTrace

__all__ = ["PROOFS", "old"]


def log_ratios(batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> Number:
    """Return [B] log pi(a_t) - log mu(a_t)."""
    now = evaluate("log_prob")
    return now - (now if batch.log_probs is None else lift(batch.log_probs))


def old(batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> Number:
    """Return [B] log mu(a_t)."""
    return evaluate("log_prob") if batch.log_probs is None else lift(batch.log_probs)


class TrajectoryISForm(EstimatorForm):
    """The ratio of a whole episode times its return."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        rewards = lift(batch.rewards)
        to_go = backwards(
            batch,
            np.zeros(batch.num_episodes),
            lambda t, rest: rewards[t] + rest * self.fields.gamma,
        )
        whole = to_go[batch.episode_starts][batch.episode_of_step]
        return {"return_": whole, "old_log_prob": old(batch, evaluate, lift)}

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`: each of an episode's terms moves with every log pi of it."""
        ratio = np.exp(over_episodes(named["log_prob"] - named["old_log_prob"], named["episode"]))
        term = -(named["return_"] * ratio)
        return term, over_episodes(term, named["episode"])


class AveragedRatioForm(TrajectoryISForm):
    """Single steps' ratios times the episode's return."""

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        term = -(named["return_"] * np.exp(named["log_prob"] - named["old_log_prob"]))
        return term, term


class PerDecisionISForm(EstimatorForm):
    """Scores times the rewards to come, each reward weighed."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        gamma = self.fields.gamma
        weighed = np.exp(self.log_weights(batch, log_ratios(batch, evaluate, lift))) * lift(
            batch.rewards
        )
        to_come = backwards(
            batch, np.zeros(batch.num_episodes), lambda t, rest: weighed[t] + rest * gamma
        )
        if self.fields.discount_state:
            for t in range(batch.step_in_episode.max()):
                to_come = where(batch.step_in_episode > t, to_come * gamma, to_come)
        return {"advantage": to_come}

    def log_weights(self, batch: Batch, log_ratio: Number) -> Number:
        """Return [B] the logarithm of what each reward is weighed by."""
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
        mean = np.exp(whole[real]).sum() / len(real)
        return (whole - np.log(mean))[batch.episode_of_step]


class VTraceForm(EstimatorForm):
    """Targets as the sum over the steps to come, not as a recursion."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        f, rewards = self.fields, lift(batch.rewards)
        values, after = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
        ratio = np.exp(log_ratios(batch, evaluate, lift))
        rho, c = (
            where(ratio > f.rho_bar, f.rho_bar, ratio),
            where(ratio > f.c_bar, f.c_bar, ratio) * f.trace_lambda,
        )
        ahead = next_values(batch, values, after)
        delta = rho * (rewards + ahead * f.gamma - values)
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
    """Log-likelihood weighed by exponentiated advantages."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        f, values = self.fields, state_values(batch, evaluate, lift)
        advantage = gae(
            batch,
            lift(batch.rewards),
            values,
            final_values(batch, evaluate, lift),
            f.gamma,
            f.gae_lambda,
        )
        scaled = (
            normalised(advantage, real_steps(batch), f.ddof)
            if f.normalise == "batch"
            else advantage
        )
        exponent = scaled / f.temperature
        limit = math.log(f.max_weight)
        return {
            "weight": np.exp(where(exponent > limit, limit, exponent)),
            "return_": advantage + values,
        }

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        return -(named["log_prob"] * named["weight"]), -named["weight"]


PROOFS = (
    Proof(
        VTrace,
        {
            "vtrace": {
                "gamma": 0.9,
                "rho_bar": 1.1,
                "c_bar": 0.9,
                "trace_lambda": 0.9,
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
            "per-decision is": {"gamma": 0.9, "discount_state": True},
            "reward-to-go is": {"gamma": 0.9, "ratio": "trajectory"},
        },
        PerDecisionISForm,
    ),
    Proof(WeightedIS, {"weighted is": {"gamma": 0.9}}, WeightedISForm),
    Proof(AveragedRatio, {"averaged ratio": {"gamma": 0.9}}, AveragedRatioForm),
)
