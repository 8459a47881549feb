"""The estimator that a trust region is stepped with, once more: written apart from the estimators, and sharing nothing with them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore_check.proof import Proof
from pgcore_check.reference.episode_sums import final_values, gae, normalised, state_values
from pgcore_check.reference.estimator_form import (
    EstimatorForm,
    Lift,
    LiftedEvaluate,
    Number,
    real_steps,
)
from pgcore_estimators.trpo import TRPO

__all__ = ["PROOFS"]


class TRPOForm(EstimatorForm):
    """The ratio alone."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        values, following = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
        advantage = gae(
            batch, lift(batch.rewards), values, following, self.fields.gamma, self.fields.gae_lambda
        )
        old = evaluate("log_prob") if batch.log_probs is None else lift(batch.log_probs)
        found = {"advantage": advantage, "return_": advantage + values, "old_log_prob": old}
        if self.fields.normalise == "batch":
            found["advantage"] = normalised(advantage, real_steps(batch), self.fields.ddof)
        return found

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        gain = named["advantage"] * np.exp(named["log_prob"] - named["old_log_prob"])
        return -gain, -gain


PROOFS = (
    Proof(
        TRPO,
        {
            "trpo": {"gamma": 0.9, "gae_lambda": 0.8},
            "trpo plain": {"gamma": 0.9, "normalise": "none", "entropy_coefficient": 0.03},
        },
        TRPOForm,
    ),
)
