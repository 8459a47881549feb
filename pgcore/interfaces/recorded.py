"""Recorded values and log-probabilities for signals, or those of the current policy."""

from __future__ import annotations

from typing import Any

import numpy as np

from pgcore.data.episodes import Episodes
from pgcore.errors import BatchError
from pgcore.interfaces.estimator import Evaluate
from pgcore.validation.arrays import Array

__all__ = ["critic_values", "old_log_probs", "recorded_values"]


def critic_values(batch: Episodes, evaluate: Evaluate) -> tuple[Array, Array]:
    """Return [B] V(s_t) and [E] V of each episode's final observation, float64, in reward units.

    The second is 0 where an episode terminated. With both recorded no final observations are needed.

    Args:
        batch: The episodes; its `values` and `final_values` replace the current critic's.
        evaluate: The argument of `Estimator.signals`.
    """
    values: dict[str, Any] = {"value": batch.values, "final_value": batch.final_values}
    missing = [name for name, array in values.items() if array is None]
    # One call, so that a backend runs its network once.
    if missing:
        values |= evaluate(*missing)
    return values["value"], values["final_value"]


def old_log_probs(batch: Episodes, evaluate: Evaluate) -> Array:
    """Return [B] log mu(a_t given s_t) of the behaviour policy, by default the current one.

    Padding has the current policy's: a ratio of the step that it repeats could overflow.
    """
    if batch.log_probs is None:
        return evaluate("log_prob")["log_prob"]
    if batch.step_weights is None:
        return batch.log_probs
    # A weight of 0 does not cancel an infinite term: 0 times infinity is NaN.
    return np.where(batch.step_weights > 0, batch.log_probs, evaluate("log_prob")["log_prob"])


def recorded_values(batch: Episodes, where: str) -> Array:
    """Return the batch's values, [B] in reward units, that a critic's values are clipped around.

    The current critic cannot stand for the old one: in a second epoch every value would be clipped
    around itself, which is no clipping, and nothing in the batch would show it.

    Args:
        batch: The episodes.
        where: The user of old values, for the error.

    Raises:
        BatchError: the batch has no recorded values.
    """
    if batch.values is None:
        raise BatchError(
            f"{type(batch).__name__}.values: expected the critic's values at the time, which {where} clips around, "
            "got none; record them: batch.record(policy.evaluate(batch, ('value',))['value'])"
        )
    return batch.values
