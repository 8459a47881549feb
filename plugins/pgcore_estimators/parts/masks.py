"""Masks of the gain: off-policy answers, tokens of low entropy, tokens of high covariance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import Evaluate
from pgcore.parts import GainMask
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number, Rule, check_fields, choice
from pgcore.xp.numpy import host
from pgcore_estimators.covariances import Fraction, Seed, covariances, fraction_of
from pgcore_estimators.terms import ROLLOUT_LOG_PROBS

__all__ = ["CovarianceMask", "EntropyQuantile", "OffPolicySequence"]

Share = Annotated[float, Rule[float]("a number above 0 and at most 1", lambda x: 0 < x <= 1)]


@dataclass(frozen=True)
class OffPolicySequence(GainMask):
    """Leaves out an episode of A < 0 that the rollout policy made far likelier than the current one.

    That is where mean_t (log pi_rollout - log pi) is above delta; a step counts by its own A. pi is
    the policy that computes the signals: compute them anew for each pass to follow it. Other terms,
    and all denominators, keep the episode.

    Attributes:
        delta: The largest mean, nats.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    delta: Number = 0.1
    extras: ClassVar = {"rollout_log_probs": ROLLOUT_LOG_PROBS}
    name = "off_policy_sequence"
    sources = ("DeepSeek-AI 2025, DeepSeek-V3.2, arXiv:2512.02556",)

    def weights(self, batch: Batch, evaluate: Evaluate, advantage: Array) -> Array:
        """See `GainWeight.weights`."""
        gap = batch.extras["rollout_log_probs"] - evaluate("log_prob")["log_prob"]
        gap = host.episode_mean(gap, batch.episode_of_step)
        weights = np.where((gap > self.delta) & (advantage < 0), 0.0, 1.0)
        # A NaN is left for the check of signals, which names its step.
        return np.where(np.isnan(gap), gap, weights)


@dataclass(frozen=True)
class EntropyQuantile(GainMask):
    """Leaves the gain at the steps whose entropy is in the top fraction of the batch.

    Entropies are those of the policy that computes the signals, and constant. An entropy at the
    quantile counts as in it.

    Attributes:
        fraction: Of the steps, such as 0.2 for the top fifth.
        denominator: "own" to reduce the gain over these steps alone, "loss" over all steps. TRL
            divides by all.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    fraction: Share = 0.2
    denominator: Annotated[str, choice("own", "loss")] = "own"
    name = "entropy_quantile"
    sources = ("Wang et al. 2025, arXiv:2506.01939",)

    @property
    def evaluates(self) -> tuple[str, ...]:
        """See `Part.evaluates`."""
        return ("entropy",)

    @property
    def own_denominator(self) -> bool:
        """See `GainMask`."""
        return self.denominator == "own"

    def weights(self, batch: Batch, evaluate: Evaluate, advantage: Array) -> Array:
        """See `GainWeight.weights`."""
        entropy = evaluate("entropy")["entropy"]
        real = slice(None) if batch.step_weights is None else batch.step_weights > 0
        bound = np.quantile(entropy[real], 1.0 - self.fraction)
        return np.where(entropy >= bound, 1.0, 0.0)


@dataclass(frozen=True)
class CovarianceMask(GainMask):
    """Leaves out a few of the steps where A and log pi move together, which lose entropy fastest.

    The covariance of a step is (A - mean A)(log pi - mean log pi), with pi and the means of the
    policy and batch that the signals are computed from, not of a later minibatch. Among the steps
    with one in [low, high], a fraction of all steps, at least 1, is left out: the first ones, or
    some at random. Denominators keep them.

    Attributes:
        low: The smallest covariance, reward units times nats.
        high: The largest.
        fraction: Of all steps.
        seed: Of the random choice; None takes the first steps, so that results repeat.

    Raises:
        EstimatorError: a field has a value it cannot take, or low is above high.
    """

    low: Number = 1.0
    high: Number = 5.0
    fraction: Fraction = 2e-4
    seed: Seed | None = None
    name = "clip_cov"
    sources = ("Cui et al. 2025, arXiv:2505.22617",)

    def __post_init__(self) -> None:
        """Check the fields, and their order."""
        check_fields(self)
        if self.low > self.high:
            raise EstimatorError(
                f"{self}: expected low of at most high, got {self.low} and {self.high}; "
                "exchange them"
            )

    def weights(self, batch: Batch, evaluate: Evaluate, advantage: Array) -> Array:
        """See `GainWeight.weights`."""
        covariance, real = covariances(batch, evaluate, advantage)
        among = real & (covariance >= self.low) & (covariance <= self.high)
        count = fraction_of(real, self.fraction)
        if self.seed is None:
            return np.where(among & (np.cumsum(among) <= count), 0.0, 1.0)
        candidates = np.flatnonzero(among)
        weights = np.ones(batch.num_steps)
        weights[np.random.default_rng(self.seed).permutation(candidates)[:count]] = 0.0
        return weights
