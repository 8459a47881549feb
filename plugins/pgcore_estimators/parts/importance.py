"""Returns of another policy's episodes, weighed by the ratios of whole episodes or up to a reward.

The batch's `log_probs` are those of the behaviour policy mu. r_t = pi(a_t given s_t) / mu(a_t given
s_t) is the ratio of one step, and r_{0:t} the product from the episode's first step to t.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate, OffPolicy
from pgcore.parts import Advantage
from pgcore.returns import cumulative_log_ratios, returns, state_discounts
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, UnitInterval, choice
from pgcore_estimators.terms import old_log_probs

__all__ = ["PerDecision", "SelfNormalised"]


@dataclass(frozen=True)
class Weighed(Advantage):
    """The base of both: returns of weighed rewards."""

    gamma: UnitInterval = 0.99
    discount_state: Flag = False

    @property
    def off_policy(self) -> OffPolicy:
        """See `Advantage`."""
        return "exact"

    @abstractmethod
    def log_weights(self, batch: Batch, log_ratio_0t: Array) -> Array:
        """Return [B] the logarithm of each reward's weight, from [B] log r_{0:t}."""

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        log_ratio = evaluate("log_prob")["log_prob"] - old_log_probs(batch, evaluate)
        weights = self.log_weights(batch, cumulative_log_ratios(log_ratio, batch.episode_lengths))
        gamma = batch.step_discounts(self.gamma)
        g_t = returns(np.exp(weights) * rewards, batch.episode_lengths, gamma)
        if not self.discount_state:
            return {"advantage": g_t}
        return {"advantage": g_t, "discount": state_discounts(batch.episode_lengths, gamma)}


@dataclass(frozen=True)
class PerDecision(Weighed):
    """A_t = sum_{k >= t} gamma^(k - t) r_{0:k} reward_k: a reward's weight ends at its own step.

    Attributes:
        gamma: Discount in [0, 1].
        discount_state: Weigh step t by gamma^t too; see `Returns`.
        ratio: "per_decision", or "trajectory" to weigh every reward with the whole episode's ratio.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    ratio: Annotated[str, choice("per_decision", "trajectory")] = "per_decision"
    name = "per_decision"
    sources = ("Precup, Sutton and Singh 2000, eq. 6",)

    @property
    def unbiased(self) -> bool:
        """See `Advantage`."""
        return True

    def log_weights(self, batch: Batch, log_ratio_0t: Array) -> Array:
        """See `Weighed.log_weights`."""
        if self.ratio == "per_decision":
            return log_ratio_0t
        return log_ratio_0t[batch.episode_ends][batch.episode_of_step]


@dataclass(frozen=True)
class SelfNormalised(Weighed):
    """A_t = (r_{0:T} / mean r_{0:T}) sum_{k >= t} gamma^(k - t) reward_k, the mean over episodes.

    Biased, by as much as the mean ratio strays from 1, which vanishes in large batches. No episode
    weighs more than the whole batch.

    Attributes:
        gamma: Discount in [0, 1].
        discount_state: Weigh step t by gamma^t too; see `Returns`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    name = "self_normalised"
    sources = ("Precup, Sutton and Singh 2000, eq. 5",)

    def log_weights(self, batch: Batch, log_ratio_0t: Array) -> Array:
        """See `Weighed.log_weights`."""
        log_ratio = log_ratio_0t[batch.episode_ends]
        real = batch.episode_weights > 0
        # The largest is factored out of the mean first, so that no exponential overflows.
        largest = log_ratio[real].max()
        log_mean = largest + np.log(np.exp(log_ratio[real] - largest).mean())
        return np.where(real, log_ratio - log_mean, 0.0)[batch.episode_of_step]
