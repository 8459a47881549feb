"""What several parts share: extras, types of options, and values of states."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.extras import Extra
from pgcore.interfaces.recorded import critic_values, old_log_probs
from pgcore.returns import GROUPS, next_values
from pgcore.validation.arrays import Array
from pgcore.validation.fields import choice
from pgcore.xp.namespace import Native

__all__ = [
    "GROUP",
    "REFERENCE_LOG_PROBS",
    "ROLLOUT_LOG_PROBS",
    "Ddof",
    "Group",
    "example_groups",
    "log_bounds",
    "log_ratio_of_gain",
    "old_log_probs",
    "state_values",
]

# Types of hyper-parameters: the divisor N - ddof of a standard deviation, and the episodes that are
# compared.
Ddof = Annotated[int, choice(0, 1)]
Group = Annotated[str, choice(*GROUPS)]


def example_groups(batch: Batch, *_: object) -> Array:
    """Return [B] integers: two groups that take turns, or one where an episode would be alone."""
    numbers = [7, 3, 3, 7, 3] if batch.num_episodes > 3 else [7]
    return np.resize(numbers, batch.num_episodes)[batch.episode_of_step]


def example_reference(batch: Batch, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return [B] log-probabilities, nats, of a policy near the one that acted."""
    assert batch.log_probs is not None
    # Ratios to the reference are then between a half and two, and seldom 1.
    return batch.log_probs + 0.3 * rng.standard_normal(shape)


def example_rollout(batch: Batch, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return [B] log-probabilities, nats, of a policy near the one that acted."""
    near = example_reference(batch, shape, rng)
    # A density may be above 1.
    return near if batch.actions.dtype.kind == "f" else np.minimum(near, 0.0)


# The extras that several estimators read.
GROUP = Extra(
    "[B] integer",
    "one number for all steps of the episodes to compare",
    example_groups,
    when=lambda estimator: estimator.group == "extra",
    advice="number the groups of episodes to compare, or set the estimator's group='all' to "
    "compare all",
)
REFERENCE_LOG_PROBS = Extra(
    "[B] number",
    "the reference policy's log-probabilities of the actions, nats",
    example_reference,
    when=lambda estimator: estimator.kl_coefficient != 0,
    advice="add them, or set kl_coefficient=0",
)
ROLLOUT_LOG_PROBS = Extra(
    "[B] number",
    "the log-probabilities of the actions under the policy that sampled, nats",
    example_rollout,
    advice="add those that the sampler reported, or leave the correction or mask out",
)


def log_bounds(below: float, above: float) -> tuple[float, float]:
    """Return the logarithms of 1 - below and 1 + above; -inf for a lower bound of 0 or less."""
    return math.log1p(-below) if below < 1 else -math.inf, math.log1p(above)


def log_ratio_of_gain(xp: Any, log_ratio: Native, advantage: Native) -> Native:
    """Return [B] log ratios, 0 where A = 0: zero times a ratio that overflows would be NaN.

    Args:
        xp: The namespace of the arrays.
        log_ratio: [B] log r, nats.
        advantage: [B] A.
    """
    return xp.where(advantage == 0, 0.0, log_ratio)


def state_values(batch: Batch, evaluate: Evaluate) -> tuple[Array, Array]:
    """Return [B] V(s_t) and [B] V(s_{t+1}), time limits bootstrapped.

    See `pgcore.interfaces.recorded` for the choice between recorded and current values.
    """
    v_t, final = critic_values(batch, evaluate)
    return v_t, next_values(v_t, batch.episode_lengths, final)
