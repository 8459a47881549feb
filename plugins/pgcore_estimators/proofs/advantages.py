"""Advantages in reference implementations: from a critic, normalised, and discounts of states."""

from __future__ import annotations

from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore_check.reference.episode_sums import final_values, gae, normalised, state_values
from pgcore_check.reference.estimator_form import (
    Lift,
    LiftedEvaluate,
    Number,
    real_steps,
    where,
)

__all__ = ["critic_advantages", "normalise_batch", "state_discounts"]


def critic_advantages(
    batch: Batch, evaluate: LiftedEvaluate, lift: Lift, fields: Any
) -> tuple[Number, Number]:
    """Return [B] GAE advantages and [B] V(s_t); `fields` has `gamma` and `gae_lambda`."""
    values, final = state_values(batch, evaluate, lift), final_values(batch, evaluate, lift)
    rewards = lift(batch.rewards)
    return gae(batch, rewards, values, final, fields.gamma, fields.gae_lambda), values


def normalise_batch(advantage: Number, batch: Batch, fields: Any) -> Number:
    """Return [B] advantages, normalised over the batch's real steps if `fields` asks for it."""
    if fields.normalise != "batch":
        return advantage
    return normalised(advantage, real_steps(batch), fields.ddof)


def state_discounts(batch: Batch, gamma: float, lift: Lift) -> Number:
    """Return [B] gamma^t, t counted from each episode's first step."""
    powers = lift(np.ones(batch.num_steps))
    # By products: the number systems have no powers.
    for t in range(batch.step_in_episode.max()):
        powers = where(batch.step_in_episode > t, powers * gamma, powers)
    return powers
