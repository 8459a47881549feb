"""The critic's values for signals: the batch's recorded ones, or the current critic's."""

from __future__ import annotations

from typing import Any

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.validation.arrays import Array

__all__ = ["critic_values"]


def critic_values(batch: Batch, evaluate: Evaluate) -> tuple[Array, Array]:
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
