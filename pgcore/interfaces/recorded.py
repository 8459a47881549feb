"""The critic's values for signals: the batch's recorded ones, or the current critic's."""

from __future__ import annotations

from collections.abc import Mapping

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.validation.arrays import Array

__all__ = ["critic_values"]


def critic_values(batch: Batch, evaluate: Evaluate) -> tuple[Array, Array]:
    """Return V(s_t) and V of each episode's final observation, for `Estimator.signals`.

    Each comes from the batch's `values` and `final_values` where it has them, else from the current
    critic. With both recorded no final observations are needed.

    Args:
        batch: The episodes.
        evaluate: The argument of `Estimator.signals`.

    Returns:
        [B] and [E] float64, reward units; the second is 0 where an episode terminated.
    """
    recorded = {"value": batch.values, "final_value": batch.final_values}
    missing = [name for name, values in recorded.items() if values is None]
    # One call, so that a backend runs its network once.
    evaluated: Mapping[str, Array] = evaluate(*missing) if missing else {}
    v_t = evaluated["value"] if batch.values is None else batch.values
    final = evaluated["final_value"] if batch.final_values is None else batch.final_values
    return v_t, final
