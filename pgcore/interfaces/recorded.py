"""The critic's values for signals: the batch's recorded ones, or the current critic's."""

from __future__ import annotations

from typing import Any

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.validation.arrays import Array

__all__ = ["critic_values"]


def critic_values(batch: Batch, evaluate: Evaluate) -> tuple[Array, Array]:
    """Return V(s_t) and V of each episode's final observation, for `Estimator.signals`.

    With both in the batch's `values` and `final_values`, no final observations are needed.

    Args:
        batch: The episodes.
        evaluate: The argument of `Estimator.signals`.

    Returns:
        [B] and [E] float64, reward units; the second is 0 where an episode terminated.
    """
    values: dict[str, Any] = {"value": batch.values, "final_value": batch.final_values}
    missing = [name for name, array in values.items() if array is None]
    # One call, so that a backend runs its network once.
    if missing:
        values |= evaluate(*missing)
    return values["value"], values["final_value"]
