"""Reference implementations of corrections and masks of the gain: plain loops over episodes.

They run in any number system of NumPy's functions, as `composed_advantages` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore_check.bounds.numbers import plain
from pgcore_check.reference.episode_sums import over_episodes
from pgcore_check.reference.estimator_form import (
    Lift,
    LiftedEvaluate,
    Number,
    real_episodes,
    real_steps,
    where,
)
from pgcore_estimators.proofs.ratios import old_log_probs

__all__ = ["WEIGHTS", "high_covariance", "is_written", "old_log_prob_of", "rollout_log_prob"]


def mean_over_episodes(x: Number, batch: Batch) -> Number:
    """Return [B] the mean of x over each step's episode."""
    lengths = batch.episode_lengths[batch.episode_of_step].astype(np.float64)
    return over_episodes(x, batch.episode_of_step) / lengths


def importance_weight(
    part: Any, batch: Batch, evaluate: LiftedEvaluate, lift: Lift, _: Number
) -> Number:
    """Return [B] limited ratios of the old policy to the rollout policy."""
    log_ratio = old_log_probs(batch, evaluate, lift) - lift(batch.extras["rollout_log_probs"])
    if part.of == "sequence":
        log_ratio = over_episodes(log_ratio, batch.episode_of_step)
    if part.of == "geometric":
        log_ratio = mean_over_episodes(log_ratio, batch)
    weights = limited(part, np.exp(log_ratio))
    if not part.normalise:
        return weights
    rows: Array = np.flatnonzero(real_steps(batch))
    if part.of != "token":
        # Each episode once.
        rows = batch.episode_starts[real_episodes(batch)]
    mean = weights[rows].sum() / len(rows)
    return weights / mean if plain(mean) > 0 else weights


def limited(part: Any, ratio: Number) -> Number:
    """Return [B] ratios with a cap, or without those outside of an interval."""
    if part.name == "truncated":
        return where(ratio > part.cap, part.cap, ratio)
    return where((ratio < part.low) | (ratio > part.high), 0, ratio)


def ones(_part: Any, batch: Batch, *_: object) -> Number:
    """Return [B] ones."""
    return np.ones(batch.num_steps)


def off_policy_sequence(
    part: Any, batch: Batch, evaluate: LiftedEvaluate, lift: Lift, advantage: Number
) -> Number:
    """Return [B] 0 at the losing steps of episodes that the policy finds unlikely, else 1."""
    gap = lift(batch.extras["rollout_log_probs"]) - evaluate("log_prob")
    unlikely = mean_over_episodes(gap, batch) > part.delta
    return where(unlikely & (advantage < 0), 0.0, 1.0)


def entropy_quantile(
    part: Any, batch: Batch, evaluate: LiftedEvaluate, _lift: Lift, _advantage: Number
) -> Number:
    """Return [B] 1 at the steps of high entropy, or the share of all steps to these; else 0."""
    entropy, real = evaluate("entropy"), real_steps(batch)
    rows = np.flatnonzero(real)
    order = rows[np.argsort(plain(entropy)[rows])]
    # The quantile lies between two entropies, in proportion.
    place = (len(rows) - 1) * (1 - part.fraction)
    below = math.floor(place)
    above = min(below + 1, len(rows) - 1)
    low, high = entropy[order[below]], entropy[order[above]]
    uncertain = (entropy >= low + (high - low) * (place - below)) & real
    share = len(rows) / np.count_nonzero(uncertain) if part.own_denominator else 1.0
    return where(uncertain, share, 0.0)


def covariances(batch: Batch, evaluate: LiftedEvaluate, advantage: Number) -> Number:
    """Return [B] products of A and log pi, each less its mean over real steps."""
    rows, log_prob = np.flatnonzero(real_steps(batch)), evaluate("log_prob")
    means = (x[rows].sum() / len(rows) for x in (advantage, log_prob))
    return (advantage - next(means)) * (log_prob - next(means))


def covariance_mask(
    part: Any, batch: Batch, evaluate: LiftedEvaluate, _lift: Lift, advantage: Number
) -> Number:
    """Return [B] 0 at a few of the steps of a high covariance, else 1."""
    covariance, real = covariances(batch, evaluate, advantage), real_steps(batch)
    inside = (covariance >= part.low) & (covariance <= part.high) & real
    steps: Array = np.flatnonzero(inside)
    if part.seed is not None:
        steps = np.random.default_rng(part.seed).permutation(steps)
    left_out = set(steps[: fraction_of(part, real)].tolist())
    return np.array([0.0 if step in left_out else 1.0 for step in range(batch.num_steps)])


def fraction_of(part: Any, real: Array) -> int:
    """Return the number of steps that a fraction of the real ones is, at least 1."""
    return max(math.floor(part.fraction * np.count_nonzero(real)), 1)


def high_covariance(part: Any, batch: Batch, evaluate: LiftedEvaluate, advantage: Number) -> Number:
    """Return [B] 1 at the steps of the highest covariances, else 0."""
    covariance, real = covariances(batch, evaluate, advantage), real_steps(batch)
    rows, count = np.flatnonzero(real), fraction_of(part, real)
    # Of equal ones the first are taken.
    order = rows[np.argsort(-plain(covariance)[rows], kind="stable")]
    if count < len(rows):
        # Compared for the record of near choices; see `pgcore_check.bounds.running_error.choices`.
        _ = covariance[order[count - 1]] > covariance[order[count]]
    taken = set(order[:count].tolist())
    return np.array([1.0 if step in taken else 0.0 for step in range(batch.num_steps)])


def rollout_log_prob(part: Any, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> Number:
    """Return [B] log mu of an objective that compares pi with the policy that sampled."""
    if part.behaviour == "old":
        return old_log_probs(batch, evaluate, lift)
    return lift(batch.extras["rollout_log_probs"])


def old_log_prob_of(parts: Any, batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> Number:
    """Return [B] log-probabilities of the policy that ratios are to."""
    if any(part.name == "bypass" for part in parts.weights):
        return lift(batch.extras["rollout_log_probs"])
    return old_log_probs(batch, evaluate, lift)


def is_written(part: Any, reduction: str) -> bool:
    """Return whether a weight is written out here, under a reduction of a registered name."""
    own_denominator = getattr(part, "own_denominator", False)
    return part.name in WEIGHTS and not (own_denominator and reduction != "step")


# By the registered name of the correction or mask.
WEIGHTS: dict[str, Callable[..., Number]] = {
    "truncated": importance_weight,
    "masked": importance_weight,
    "bypass": ones,
    "off_policy_sequence": off_policy_sequence,
    "entropy_quantile": entropy_quantile,
    "clip_cov": covariance_mask,
}
