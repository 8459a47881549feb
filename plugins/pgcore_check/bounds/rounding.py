"""Measured rounding errors of policies without a formula.

The error is the change of a result when its inputs move by one unit in the last place.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array

__all__ = ["PERTURBED", "nudged_batch", "nudged_parameters", "restored", "spread"]

# The number of perturbations of the inputs; each costs as much as the result itself.
PERTURBED = 3

# The batch's fields that no policy's network reads.
UNMOVED = (
    *("actions", "rewards", "log_probs", "values", "action_mask", "step_weights", "extras"),
    *("discount", "episode_lengths", "terminated", "final_values"),
)


def nudged_parameters(policy: Policy) -> list[dict[str, Array]]:
    """Return `PERTURBED` copies of a policy's parameters, each entry moved to a neighbour."""
    parameters = policy.parameters()
    rngs = (np.random.default_rng(number) for number in range(PERTURBED))
    return [{name: nudged(value, rng) for name, value in parameters.items()} for rng in rngs]


def nudged_batch(batch: Batch, dtype: np.dtype[Any], number: int) -> Batch:
    """Return a batch whose floating-point observations are moved to neighbours; integers stay.

    Args:
        batch: Whole episodes.
        dtype: The policy's dtype, in which an observation has two neighbours.
        number: The number of the draw.
    """
    # Other seeds than those of the parameters.
    rng = np.random.default_rng(PERTURBED + number)

    def moved(observations: Array) -> Array:
        if observations.dtype.kind != "f":
            return observations
        return nudged(observations.astype(dtype), rng)

    final = batch.final_observations
    return Batch(
        **{name: getattr(batch, name) for name in UNMOVED},
        observations=moved(batch.observations),
        final_observations=None if final is None else moved(final),
    )


def nudged(array: Array, rng: np.random.Generator) -> Array:
    """Return each entry's neighbour above or below; 0 stays, since its neighbours are flushed."""
    towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(array.dtype)
    return np.where(array == 0, array, np.nextafter(array, towards))


def spread(values: Array, perturbed: Iterable[Array], dtype: np.dtype[Any]) -> Array:
    """Return the rounding error of each entry.

    It is the largest change of any entry under the perturbations, plus one rounding of the entry.

    Args:
        values: The result.
        perturbed: The same result from each of the moved inputs.
        dtype: The working precision.
    """
    exact = np.where(np.isfinite(values), values, 0).astype(np.longdouble)
    change = 0
    for array in perturbed:
        finite = np.where(np.isfinite(array), array, 0)
        change = max(change, np.abs(finite - exact).max(initial=0))
    return np.abs(exact) * (np.finfo(dtype).eps / np.longdouble(2)) + change


@contextmanager
def restored(*policies: Policy) -> Generator[None]:
    """Restore the policies' parameters at the end, bit for bit."""
    before: list[Mapping[str, Array]] = [policy.parameters() for policy in policies]
    try:
        yield
    finally:
        for policy, parameters in zip(policies, before, strict=True):
            policy.load(parameters)
