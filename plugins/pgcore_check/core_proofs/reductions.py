"""Reference implementations of the core's reductions, and their proofs."""

from __future__ import annotations

from typing import Any

from pgcore.data.batch import Batch
from pgcore.interfaces.reduction import EpisodeMean, EpisodeSum, StepMean
from pgcore_check.proof import Proof
from pgcore_check.reference.estimator_form import real_episodes, real_steps, where
from pgcore_check.reference.reduction_form import Lift, ReductionForm

__all__ = ["REDUCTIONS"]

Number = Any  # an array of whichever number system `lift` lifts into


class StepMeanForm(ReductionForm):
    """1 / B at each of B steps."""

    def weights(self, batch: Batch, lift: Lift) -> Number:
        """See `ReductionForm.weights`."""
        real = real_steps(batch)
        return lift(where(real, 1.0, 0.0)) / int(real.sum())


class EpisodeSumForm(ReductionForm):
    """1 / E at each step of E episodes."""

    def weights(self, batch: Batch, lift: Lift) -> Number:
        """See `ReductionForm.weights`."""
        return lift(where(real_steps(batch), 1.0, 0.0)) / len(real_episodes(batch))


class EpisodeMeanForm(EpisodeSumForm):
    """1 / (E T) at each step of an episode of T."""

    def weights(self, batch: Batch, lift: Lift) -> Number:
        """See `ReductionForm.weights`."""
        lengths = batch.episode_lengths[batch.episode_of_step]
        return super().weights(batch, lift) / lift(lengths)


REDUCTIONS = [
    Proof(StepMean, {"step": {}}, StepMeanForm),
    Proof(EpisodeSum, {"trajectory": {}}, EpisodeSumForm),
    Proof(EpisodeMean, {"episode_step": {}}, EpisodeMeanForm),
]
