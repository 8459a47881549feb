"""The reference implementation of TRPO's surrogate, which shares no code with the estimator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore_check.proof import Proof
from pgcore_check.reference.estimator_form import EstimatorForm, Lift, LiftedEvaluate, Number
from pgcore_estimators.preset_classes import TRPO
from pgcore_estimators.proofs.advantages import critic_advantages, normalise_batch
from pgcore_estimators.proofs.ratios import old_log_probs

__all__ = ["PROOFS"]


class TRPOForm(EstimatorForm):
    """The ratio alone."""

    def signals(self, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> dict[str, Number]:
        """See `EstimatorForm.signals`."""
        advantage, values = critic_advantages(batch, evaluate, lift, self.fields)
        return {
            "advantage": normalise_batch(advantage, batch, self.fields),
            "return_": advantage + values,
            "old_log_prob": old_log_probs(batch, evaluate, lift),
        }

    def policy(self, inputs: Mapping[str, Number]) -> tuple[Number, Number]:
        """See `EstimatorForm.policy`."""
        # The ratio is its own derivative in log pi.
        gain = inputs["advantage"] * np.exp(inputs["log_prob"] - inputs["old_log_prob"])
        return -gain, -gain


PROOFS = (
    Proof(
        TRPO,
        {
            "trpo": {"gamma": 0.9, "gae_lambda": 0.8},
            # Every part of the loss in one option: the entropy bonus beside the value loss.
            "trpo plain": {"gamma": 0.9, "normalise": "none", "entropy_coefficient": 0.03},
        },
        TRPOForm,
    ),
)
