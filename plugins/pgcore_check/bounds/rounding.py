"""How far rounding can lead, where there is no formula to bound it: what a policy answers when its inputs move by one unit in the last place."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array

__all__ = ["PERTURBED", "nudged_batch", "nudged_parameters", "restored", "spread"]

# How often everything is computed once more with its inputs moved.
PERTURBED = 3


def nudged_parameters(policy: Policy) -> list[dict[str, Array]]:
    """Return the policy's parameters, `PERTURBED` times, each entry moved to one of its neighbours in the policy's dtype."""
    parameters = policy.parameters()
    rngs = (np.random.default_rng(number) for number in range(PERTURBED))
    return [{name: nudged(value, rng) for name, value in parameters.items()} for rng in rngs]


def nudged_batch(batch: Batch, dtype: np.dtype[Any], number: int) -> Batch:
    """Return the batch with each floating-point observation moved to one of its neighbours; integers stay.

    Args:
        batch: Whole episodes.
        dtype: The policy's, whose neighbours are meant.
        number: Of the draw.
    """
    rng = np.random.default_rng(PERTURBED + number)

    def moved(observations: Array) -> Array:
        return (
            nudged(observations.astype(dtype), rng)
            if observations.dtype.kind == "f"
            else observations
        )

    final = batch.final_observations
    per_step = (
        "actions",
        "rewards",
        "log_probs",
        "values",
        "action_mask",
        "step_weights",
        "extras",
    )
    per_episode = ("episode_lengths", "terminated", "final_values")
    return Batch(
        **{name: getattr(batch, name) for name in (*per_step, *per_episode)},
        observations=moved(batch.observations),
        final_observations=None if final is None else moved(final),
    )


def nudged(array: Array, rng: np.random.Generator) -> Array:
    """Return each entry's neighbour above or below; 0 stays, since what is next to it is flushed."""
    towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
    return np.where(array == 0, array, np.nextafter(array, towards))


def spread(values: Array, others: Iterable[Array], dtype: np.dtype[Any]) -> Array:
    """Return what rounding may make of each entry: as much as the array's largest change, and once its own.

    Args:
        values: What was computed.
        others: The same from moved inputs.
        dtype: What it was computed in.
    """
    exact = np.where(np.isfinite(values), values, 0).astype(np.longdouble)
    changes = [
        np.abs(np.where(np.isfinite(other), other, 0) - exact).max(initial=0) for other in others
    ]
    return np.abs(exact) * (np.finfo(dtype).eps / np.longdouble(2)) + max(changes, default=0)


@contextmanager
def restored(*policies: Policy) -> Generator[None]:
    """Give the policies back their parameters at the end, bit for bit."""
    before: list[Mapping[str, Array]] = [policy.parameters() for policy in policies]
    try:
        yield
    finally:
        for policy, parameters in zip(policies, before, strict=True):
            policy.load(parameters)
