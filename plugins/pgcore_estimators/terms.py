"""Terms that several surrogates add, each beside its derivatives; and the values that several signals start from."""

from __future__ import annotations

from typing import Any

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.estimator import Evaluate
from pgcore.namespace import Native
from pgcore.signals import next_values

__all__ = ["bonus", "bonus_cotangents", "old_log_prob", "ratio_metrics", "state_values"]


def bonus(value_coefficient: float, entropy_coefficient: float, value: Native, return_: Native, entropy: Native) -> Any:
    """Return value_coefficient (V - R)^2 / 2 - entropy_coefficient H; a None leaves its part out."""
    term: Any = 0.0
    if value is not None:
        error = value - return_
        term = term + value_coefficient * 0.5 * error * error
    if entropy is not None:
        term = term - entropy_coefficient * entropy
    return term


def bonus_cotangents(
    value_coefficient: float,
    entropy_coefficient: float,
    value: Array | None,
    return_: Array | None,
    entropy: Array | None,
) -> dict[str, Array]:
    """Return the derivatives of `bonus` in value and entropy."""
    cotangents: dict[str, Array] = {}
    if value is not None:
        cotangents["value"] = value_coefficient * (value - return_)
    if entropy is not None:
        cotangents["entropy"] = np.full_like(entropy, -entropy_coefficient)
    return cotangents


def state_values(batch: Batch, evaluate: Evaluate) -> tuple[Array, Array]:
    """Return [B] V(s_t) and [B] V(s_{t+1}) under the current critic, time limits bootstrapped."""
    found = evaluate("value", "final_value")
    return found["value"], next_values(found["value"], batch.episode_lengths, found["final_value"])


def old_log_prob(batch: Batch, evaluate: Evaluate) -> Array:
    """Return [B] log pi of the actions under the policy that chose them: the batch's, or where it says nothing the current one's."""
    return evaluate("log_prob")["log_prob"] if batch.log_probs is None else batch.log_probs


def ratio_metrics(log_prob: Array, old_log_prob: Array, value: Array, return_: Array) -> dict[str, float]:
    """Return the mean value loss, and `approx_kl`, the mean of r - 1 - log r."""
    log_ratio, error = log_prob - old_log_prob, value - return_
    return {
        "value_loss": float(0.5 * (error * error).mean()),
        "approx_kl": float((np.expm1(log_ratio) - log_ratio).mean()),
    }
