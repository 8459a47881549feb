"""The forms of estimators that a trust region is stepped with; see `pgcore.testing.estimator_forms`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pgcore.batch import Batch
from pgcore.testing.episode_sums import final_values, gae, normalised, state_values
from pgcore.testing.estimator_form import EstimatorForm, Lift, LiftedEvaluate, Number, real_steps

__all__ = ["TRPOForm"]


class TRPOForm(EstimatorForm):
    """The ratio alone."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        values, following = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
        advantage = gae(batch, lift(batch.rewards), values, following, self.fields.gamma, self.fields.gae_lambda)
        old = evaluate("log_prob") if batch.log_probs is None else lift(batch.log_probs)
        found = {"advantage": advantage, "return_": advantage + values, "old_log_prob": old}
        if self.fields.normalise == "batch":
            found["advantage"] = normalised(advantage, real_steps(batch), self.fields.ddof)
        return found

    def policy(self, named: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        gain = named["advantage"] * np.exp(named["log_prob"] - named["old_log_prob"])
        return -gain, -gain
