"""Ratios of policies in reference implementations: log-probabilities, bounds, the clipped gain."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pgcore.data.batch import Batch
from pgcore_check.reference.estimator_form import Lift, LiftedEvaluate, Number, where

__all__ = ["clipped_loss", "limit", "log_bounds", "log_ratios", "old_log_probs"]


def old_log_probs(batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> Number:
    """Return [B] log mu(a_t), nats, by default the current policy's."""
    return evaluate("log_prob") if batch.log_probs is None else lift(batch.log_probs)


def log_ratios(batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> Number:
    """Return [B] log pi(a_t) - log mu(a_t), nats."""
    return evaluate("log_prob") - old_log_probs(batch, evaluate, lift)


def log_bounds(low: float, high: float) -> tuple[float, float]:
    """Return the logarithms of 1 - low and 1 + high."""
    return math.log1p(-low) if low < 1 else -math.inf, math.log1p(high)


def limit(x: Number, low: float, high: float) -> Number:
    """Return [B] x limited to [low, high]."""
    return where(x > high, high, where(x < low, low, x))


def clipped_loss(
    inputs: Mapping[str, Number], log_ratio: Number, low: float, high: float
) -> tuple[Number, Number]:
    """Return [B] -min(r A, clip(r, 1 - low, 1 + high) A) and its derivatives in the log ratio."""
    advantage = inputs["advantage"]
    lowest, highest = log_bounds(low, high)
    # A ratio past the bound that the advantage pushes it towards counts as the bound.
    up = advantage >= 0
    past = (up & (log_ratio > highest)) | (~up & (log_ratio < lowest))
    gain = advantage * np.exp(where(past, where(up, highest, lowest), log_ratio))
    return -gain, -where(past, 0, gain)
