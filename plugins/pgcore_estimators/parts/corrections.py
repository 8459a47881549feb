"""Corrections for a rollout policy that is not the old policy, such as an inference engine's copy.

The batch's `log_probs` are the old policy's, of the trainer at the start of the update; its extra
`rollout_log_probs` holds those of the policy that sampled. Weights are constant.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.recorded import old_log_probs
from pgcore.parts import Correction
from pgcore.parts.composition import refusal
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, NonNegative, PositiveOrInfinite, check_fields, choice
from pgcore.xp.numpy import host
from pgcore_estimators.parts.dppo import DPPO
from pgcore_estimators.parts.kl import SampledKL
from pgcore_estimators.parts.token_baseline import OptimalTokenBaseline
from pgcore_estimators.parts.vtrace import VTraceAdvantage
from pgcore_estimators.terms import ROLLOUT_LOG_PROBS

__all__ = ["Bypass", "ImportanceWeight", "Masked", "Truncated"]


@dataclass(frozen=True)
class ImportanceWeight(Correction):
    """w = pi_old / pi_rollout of the actions, limited.

    Attributes:
        of: The ratio's level: "token", "sequence" for the product over an episode's steps, or
            "geometric" for their geometric mean.
        normalise: Whether weights are divided by their mean over all steps, or over all episodes
            where they are an episode's.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    of: Annotated[str, choice("token", "sequence", "geometric")] = "token"
    normalise: Flag = False
    extras: ClassVar = {"rollout_log_probs": ROLLOUT_LOG_PROBS}

    def meet(self, parts: Any) -> None:
        """See `Part.meet`: the ratio to the rollout policy is in the gain once."""
        check_alone(self, parts)
        objective = parts.objective
        if isinstance(objective, DPPO) and objective.behaviour == "rollout":
            rule = "an objective without a ratio to the rollout policy"
            raise refusal(self, rule, objective, "set its behaviour='old', or leave this part out")

    @abstractmethod
    def limited(self, ratio: Array) -> Array:
        """Return [B] weights from [B] ratios, infinite where they overflow."""

    def weights(self, batch: Batch, evaluate: Evaluate, advantage: Array) -> Array:
        """See `GainWeight.weights`."""
        log_ratio = old_log_probs(batch, evaluate) - batch.extras["rollout_log_probs"]
        if self.of != "token":
            over = host.episode_sum if self.of == "sequence" else host.episode_mean
            log_ratio = over(log_ratio, batch.episode_of_step)
        with np.errstate(over="ignore"):
            weights = self.limited(np.exp(log_ratio))
        return self._normalised(batch, weights) if self.normalise else weights

    def _normalised(self, batch: Batch, weights: Array) -> Array:
        """Return [B] weights of mean 1, or all 0 as they are."""
        real = np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
        if self.of != "token":
            # Each episode counts once, whatever its length.
            real = real / batch.episode_lengths[batch.episode_of_step]
        mean = np.average(weights, weights=real)
        return weights / np.where(mean > 0, mean, 1.0)


@dataclass(frozen=True)
class Truncated(ImportanceWeight):
    """min(w, cap), with w = pi_old / pi_rollout; see `ImportanceWeight`.

    Attributes:
        of: See `ImportanceWeight`.
        normalise: See `ImportanceWeight`.
        cap: The largest weight, before `normalise`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    cap: PositiveOrInfinite = 2.0
    name = "truncated"
    sources = (
        "Espeholt et al. 2018, sec. 4.1, arXiv:1802.01561",
        "Yao et al. 2025, 'Your efficient RL framework secretly brings you off-policy RL training'",
    )

    def limited(self, ratio: Array) -> Array:
        """See `ImportanceWeight.limited`."""
        return np.minimum(ratio, self.cap)


@dataclass(frozen=True)
class Masked(ImportanceWeight):
    """w where low <= w <= high, else 0, with w = pi_old / pi_rollout; see `ImportanceWeight`.

    Attributes:
        of: See `ImportanceWeight`.
        normalise: See `ImportanceWeight`.
        low: The smallest weight that counts.
        high: The largest weight that counts; both before `normalise`.

    Raises:
        EstimatorError: a field has a value it cannot take, or low is above high.
    """

    low: NonNegative = 0.5
    high: PositiveOrInfinite = 2.0
    name = "masked"
    sources = ("Ling Team 2025, arXiv:2510.18855 (IcePop)",)

    def __post_init__(self) -> None:
        """Check the fields, and their order."""
        check_fields(self)
        if self.low > self.high:
            raise EstimatorError(
                f"{self}: expected low of at most high, got {self.low} and {self.high}; "
                "exchange them"
            )

    def limited(self, ratio: Array) -> Array:
        """See `ImportanceWeight.limited`."""
        # A NaN is left for the check of signals, which names its step.
        outside = (ratio < self.low) | (ratio > self.high)
        return np.where(outside, 0.0, ratio)


@dataclass(frozen=True)
class Bypass(Correction):
    """No weight: the rollout policy takes the old policy's place in every ratio.

    Two policies are left, the current one and the one that sampled. Parts that read the batch's
    `log_probs` themselves are refused beside it.
    """

    extras: ClassVar = {"rollout_log_probs": ROLLOUT_LOG_PROBS}
    name = "bypass"

    def meet(self, parts: Any) -> None:
        """See `Part.meet`: no other part reads the old policy, in whose place it puts another."""
        check_alone(self, parts)
        readers = [part for part in parts if reads_old_policy(part)]
        if readers:
            rule = "parts that do not read the batch's log_probs"
            advice = "record the rollout policy's log-probabilities as log_probs, without 'bypass'"
            raise refusal(self, rule, readers[0], advice)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Part.signals`."""
        return {"old_log_prob": batch.extras["rollout_log_probs"]}

    def weights(self, batch: Batch, evaluate: Evaluate, advantage: Array) -> Array:
        """See `GainWeight.weights`."""
        return np.ones(batch.num_steps)


def check_alone(part: Correction, parts: Any) -> None:
    """Raise EstimatorError where two corrections of this module meet."""
    rivals = [weight for weight in parts.weights if isinstance(weight, ImportanceWeight | Bypass)]
    if len(rivals) > 1:
        partner = rivals[1] if rivals[0] is part else rivals[0]
        raise refusal(part, "no other correction for the rollout policy", partner, "choose one")


def reads_old_policy(part: object) -> bool:
    """Return whether a built-in part reads the batch's `log_probs`, beside the ratio's own."""
    if isinstance(part, DPPO):
        return part.behaviour == "old"
    if isinstance(part, SampledKL):
        return part.in_reward
    return isinstance(part, VTraceAdvantage | OptimalTokenBaseline)
