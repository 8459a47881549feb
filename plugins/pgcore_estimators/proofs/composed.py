"""Reference implementations of the signals of compositions: plain loops over episodes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore_check.bounds.numbers import numbers
from pgcore_check.reference.episode_sums import normalised
from pgcore_check.reference.estimator_form import (
    EstimatorForm,
    Lift,
    LiftedEvaluate,
    Number,
    real_steps,
)
from pgcore_estimators.proofs.composed_advantages import ADVANTAGES
from pgcore_estimators.proofs.composed_weights import (
    WEIGHTS,
    high_covariance,
    is_written,
    old_log_prob_of,
    rollout_log_prob,
)
from pgcore_estimators.proofs.ratios import old_log_probs

__all__ = ["ComposedForm"]

# The signals written out here, and the episodes' numbers; masks of whole steps have another.
SIGNALS = frozenset(("advantage", "return_", "old_log_prob", "old_value", "reference", "episode"))
SIGNALS |= {"reference_log_prob", "rollout_log_prob", "high_covariance", "gain_weight"}


class ComposedForm(EstimatorForm):
    """The signals of the built-in parts; the terms are the surrogate's."""

    earlier = ("old_value",)
    signals_alone = True

    def serves(self) -> bool:
        """See `EstimatorForm.serves`: a composition of the parts that this module writes out."""
        parts = self.fields.composition
        advantage = parts.advantage
        # The baseline of scores is the kit's for `reinforce` alone; discounts have tests of their own.
        scores = getattr(advantage, "baseline", "none") == "optimal"
        written = advantage.name in ADVANTAGES and not scores
        written = written and self.fields.signal_names <= SIGNALS
        reduction = self.fields.reduction.name
        written = written and all(is_written(part, reduction) for part in parts.weights)
        return written and all(map(is_built_in, parts))

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        parts = self.fields.composition
        rewards, old = lift(batch.rewards), old_log_probs(batch, evaluate, lift)
        for penalty in parts.penalties:
            if penalty.in_reward:
                gap = old - lift(batch.extras["reference_log_probs"])
                rewards = rewards - penalty.estimate(numbers, gap) * penalty.coefficient
        estimate = ADVANTAGES[parts.advantage.name]
        signals = estimate(parts.advantage, batch, rewards, lift, evaluate)
        if parts.normalise == "batch":
            signals["advantage"] = normalised(signals["advantage"], real_steps(batch), parts.ddof)
        if "discount" in signals:
            signals["advantage"] = signals["advantage"] * signals.pop("discount")
        optional: dict[str, Callable[[], Number]] = {
            "old_log_prob": lambda: old_log_prob_of(parts, batch, evaluate, lift),
            "old_value": lambda: lift(np.asarray(batch.values)),
            "reference_log_prob": lambda: lift(batch.extras["reference_log_probs"]),
            "rollout_log_prob": lambda: rollout_log_prob(parts.objective, batch, evaluate, lift),
        }
        for name, value in optional.items():
            if name in parts.keywords:
                signals[name] = value()
        if "reference" in self.fields.signal_names:
            extra = batch.extras.get("reference")
            signals["reference"] = evaluate("distribution") if extra is None else lift(extra)
        if parts.critic is None:
            signals.pop("return_", None)
        return signals | self._of_advantage(batch, evaluate, lift, signals["advantage"])

    def _of_advantage(
        self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift, advantage: Number
    ) -> dict[str, Number]:
        """Return the signals that depend on A: weights of the gain, and choices of steps."""
        parts, signals = self.fields.composition, dict[str, Number]()
        for part in parts.penalties:
            if "high_covariance" in part.reads:
                signals["high_covariance"] = high_covariance(part, batch, evaluate, advantage)
        weights = [
            WEIGHTS[part.name](part, batch, evaluate, lift, advantage) for part in parts.weights
        ]
        if weights:
            signals["gain_weight"] = math.prod(weights[1:], start=weights[0])
        return signals

    def finalise(self, signals: dict[str, Number], padding: Array | None) -> dict[str, Number]:
        """See `EstimatorForm.finalise`: normalised over the real steps of the minibatch."""
        parts = self.fields.composition
        if parts.normalise != "minibatch":
            return signals
        advantage = signals["advantage"]
        real = np.ones(advantage.shape, np.bool_) if padding is None else padding > 0
        return signals | {"advantage": normalised(advantage, real, parts.ddof)}


def is_built_in(part: object) -> bool:
    """Return whether a part is one of this package's, and not of a stranger or a test."""
    return type(part).__module__.startswith("pgcore_estimators.")
