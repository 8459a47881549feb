"""The critic's values at signal time: those that a batch has recorded, or the current critic's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgcore.validation.arrays import Array

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pgcore.data.batch import Batch
    from pgcore.interfaces.estimator import Evaluate

__all__ = ["critic_values"]


def critic_values(batch: Batch, evaluate: Evaluate) -> tuple[Array, Array]:
    """Return V(s_t) and the value of what followed each episode, for `Estimator.signals`.

    Each comes from the batch where it has recorded it, as `values` and `final_values`, and from the
    current critic otherwise. With both recorded nothing is evaluated, and no final observations are
    needed.

    Args:
        batch: The episodes.
        evaluate: What `Estimator.signals` was passed.

    Returns:
        [B] and [E] float64, reward units; the second is 0 where an episode terminated.

    Raises:
        BatchError: an episode was truncated, and the batch has neither its final value nor its final
            observation.
    """
    recorded = {"value": batch.values, "final_value": batch.final_values}
    missing = [name for name, values in recorded.items() if values is None]
    # One call, so that a backend runs its network once.
    evaluated: Mapping[str, Array] = evaluate(*missing) if missing else {}
    v_t = evaluated["value"] if batch.values is None else batch.values
    final = evaluated["final_value"] if batch.final_values is None else batch.final_values
    return v_t, final
