"""Reference implementations of the reductions, and their proofs."""

from __future__ import annotations

from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore_check.proof import Proof
from pgcore_check.reference.estimator_form import real_episodes, real_steps, where
from pgcore_check.reference.reduction_form import Lift, ReductionForm, weights_of
from pgcore_estimators.reductions import ConstantDivisor, GroupMean, StepSum, WeightedSteps

__all__ = ["PROOFS"]

Number = Any  # an array of whichever number system `lift` lifts into


class GroupMeanForm(ReductionForm):
    """1 / (groups x steps of the group), counted group by group."""

    def weights(self, batch: Batch, lift: Lift) -> Number:
        """See `ReductionForm.weights`."""
        real, numbers = real_steps(batch), batch.extras["group"]
        present = sorted(set(numbers[real].tolist()))
        denominators = np.ones(batch.num_steps)
        for number in present:
            members = real & (numbers == number)
            denominators[members] = len(present) * int(members.sum())
        return lift(where(real, 1.0, 0.0)) / lift(denominators)


class ConstantDivisorForm(ReductionForm):
    """1 / (E c) at each step of E episodes."""

    def weights(self, batch: Batch, lift: Lift) -> Number:
        """See `ReductionForm.weights`."""
        real = lift(where(real_steps(batch), 1.0, 0.0))
        return real / len(real_episodes(batch)) / self.fields.divisor


class StepSumForm(ReductionForm):
    """1 at each step."""

    def weights(self, batch: Batch, lift: Lift) -> Number:
        """See `ReductionForm.weights`."""
        return lift(where(real_steps(batch), 1.0, 0.0))


class WeightedStepsForm(ReductionForm):
    """The user's weight times the inner reduction's."""

    def weights(self, batch: Batch, lift: Lift) -> Number:
        """See `ReductionForm.weights`."""
        return weights_of(self.fields.inner, batch, lift) * lift(batch.extras["weights"])


PROOFS = [
    Proof(GroupMean, {"group_step": {}}, GroupMeanForm),
    Proof(ConstantDivisor, {"constant": {"divisor": 7.0}}, ConstantDivisorForm),
    Proof(StepSum, {"sum": {}}, StepSumForm),
    Proof(WeightedSteps, {"weighted": {"inner": "episode_step"}}, WeightedStepsForm),
]
