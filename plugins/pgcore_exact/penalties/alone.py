"""The estimator whose loss is one penalty alone, put together from the smallest parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate, Reduction
from pgcore.parts import Advantage, Composed, Composition, Level, Objective
from pgcore.parts.objectives import Slope
from pgcore.returns import returns
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host

__all__ = ["PenaltyAlone"]


@dataclass(frozen=True)
class Cost(Advantage):
    """Minus the penalties in the rewards from each step on, weighted by the whole episode's ratio."""

    name = "cost"

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        cost = returns(rewards - batch.rewards, batch.episode_lengths, 1.0)
        assert batch.log_probs is not None
        log_ratio = evaluate("log_prob")["log_prob"] - batch.log_probs
        return {"advantage": cost * np.exp(host.episode_sum(log_ratio, batch.episode_of_step))}


@dataclass(frozen=True)
class Score(Objective):
    """The gain A log pi."""

    name = "score"
    reads_ratio = False

    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """See `Objective.gain`."""
        return advantage * log_prob

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Objective.slope`."""
        return None, advantage


@dataclass(frozen=True)
class Step(Level):
    """The step alone: the gain has no ratio."""

    name = "step"
    sees_episodes = False
    changes = False

    def log_ratio(
        self, xp: ArrayNamespace, log_ratio: Native, log_prob: Native, episode: Native
    ) -> Native:
        """See `Level.log_ratio`."""
        return log_ratio

    def pull(self, slope: Array, episode: Any) -> tuple[Array | None, Array | None]:
        """See `Level.pull`."""
        return slope, None


@dataclass(frozen=True)
class PenaltyAlone(Composed):
    """The loss of one penalty, summed over an episode; without rewards nothing else is left."""

    penalty: Any
    name = "penalty"
    sources = ("the penalty's",)
    reduction = Reduction.TRAJECTORY

    def compose(self) -> Composition:
        """See `Composed.compose`."""
        return Composition(
            Cost(), Score(), Step(), penalties=(self.penalty,), reduction=self.reduction
        )
