"""Terms that several surrogates add, beside their derivatives, and signals that several share."""

from __future__ import annotations

import math
from typing import Annotated, Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.extras import Extra
from pgcore.interfaces.recorded import critic_values, old_log_probs
from pgcore.returns import GROUPS, gae, next_values, normalise
from pgcore.validation.arrays import Array
from pgcore.validation.fields import choice
from pgcore.xp.namespace import Native

__all__ = [
    "GROUP",
    "REFERENCE_LOG_PROBS",
    "ROLLOUT_LOG_PROBS",
    "Ddof",
    "Group",
    "Normalisation",
    "clipped_gain",
    "clipped_gain_slope",
    "example_groups",
    "gae_and_returns",
    "is_clipped",
    "log_bounds",
    "log_ratio_of_gain",
    "normalise_advantages",
    "old_log_probs",
    "penalised_rewards",
    "state_values",
]

# Types of hyper-parameters: normalisation of advantages to mean 0 and standard deviation 1, the
# divisor N - ddof of that deviation, and the episodes that are compared.
Normalisation = Annotated[str, choice("none", "batch")]
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


def clipped_gain(
    xp: Any, log_ratio: Native, advantage: Native, bounds: tuple[float, float]
) -> Native:
    """Return [B] min(r A, clip(r) A) with r = exp(log ratio).

    A ratio exactly at a bound counts as unclipped.

    Args:
        xp: The namespace of the arrays.
        log_ratio: [B] log r, nats.
        advantage: [B] A.
        bounds: The logarithms of the ratio's bounds; see `log_bounds`.
    """
    # Only the bound that the advantage pushes towards counts. Limiting the log ratio first keeps
    # the exponential from overflowing on the clipped branch.
    infinite, gaining = xp.full_like(advantage, math.inf), advantage >= 0
    low, high = xp.where(gaining, -infinite, bounds[0]), xp.where(gaining, bounds[1], infinite)
    return advantage * xp.exp(xp.clip(log_ratio, low, high))


def clipped_gain_slope(log_ratio: Array, advantage: Array, bounds: tuple[float, float]) -> Array:
    """Return [B] the derivative of `clipped_gain` in the log ratio."""
    # exp(-inf) is exactly 0: the clipped branch takes no gradient, and no exponential overflows.
    exponent = np.where(is_clipped(log_ratio, advantage, bounds), -math.inf, log_ratio)
    return advantage * np.exp(exponent)


def is_clipped(log_ratio: Array, advantage: Array, bounds: tuple[float, float]) -> Array:
    """Return [B] bool, true beyond the bound that the advantage pushes the ratio towards."""
    return np.where(advantage >= 0, log_ratio > bounds[1], log_ratio < bounds[0])


def penalised_rewards(batch: Batch, evaluate: Evaluate, kl_coefficient: float) -> Array:
    """Return [B] rewards less kl_coefficient (log mu - log pi_ref), reward units."""
    # Without a penalty the batch needs no reference policy.
    if kl_coefficient == 0:
        return batch.rewards
    log_ratio = old_log_probs(batch, evaluate) - batch.extras["reference_log_probs"]
    return batch.rewards - kl_coefficient * log_ratio


def state_values(batch: Batch, evaluate: Evaluate) -> tuple[Array, Array]:
    """Return [B] V(s_t) and [B] V(s_{t+1}), time limits bootstrapped.

    See `pgcore.interfaces.recorded` for the choice between recorded and current values.
    """
    v_t, final = critic_values(batch, evaluate)
    return v_t, next_values(v_t, batch.episode_lengths, final)


def gae_and_returns(
    batch: Batch, evaluate: Evaluate, gamma: float, gae_lambda: float
) -> tuple[Array, Array]:
    """Return [B] GAE advantages A and [B] TD(lambda) returns A + V, reward units."""
    v_t, v_tp1 = state_values(batch, evaluate)
    gammas = batch.step_discounts(gamma)
    a_t = gae(batch.rewards, v_t, v_tp1, batch.episode_lengths, gammas, gae_lambda)
    return a_t, a_t + v_t


def normalise_advantages(batch: Batch, advantage: Array, normalisation: str, ddof: int) -> Array:
    """Return [B] advantages, with "batch" of mean 0 and standard deviation 1 over real steps."""
    if normalisation == "none":
        return advantage
    return normalise(advantage, batch.step_weights, ddof=ddof)
