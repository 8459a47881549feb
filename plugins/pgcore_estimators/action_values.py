"""What estimators over action values share: Q held constant, what follows each step, and the critic's loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import BatchError, ShapeError
from pgcore.interfaces.estimator import Evaluate
from pgcore.returns import next_values
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import Native

__all__ = ["constant_action_values", "critic_loss", "next_log_probs", "next_q", "over_actions"]


def constant_action_values(batch: Batch, evaluate: Evaluate) -> Array:
    """Return [B, A] Q(s_t, .): the batch's extra `action_values`, or where it has none the policy's own.

    Raises:
        BatchError: the extra has not two dimensions, or no floats.
        ShapeError: it has not a column for each action.
    """
    given = batch.extras.get("action_values")
    if given is None:
        return evaluate("action_values")["action_values"]
    if given.ndim != 2 or given.dtype.kind != "f":
        raise BatchError(
            f"Batch.extras['action_values']: expected floats [B, A], Q of every action, got {given.dtype} {list(given.shape)}; give them all"
        )
    actions = evaluate("log_probs")["log_probs"].shape[1]
    if given.shape[1] != actions:
        raise ShapeError(
            f"Batch.extras['action_values']: expected [B, {actions}], Q of every action of the policy, got {list(given.shape)}; "
            "give each action its column"
        )
    return given


def next_q(batch: Batch, evaluate: Evaluate) -> Array:
    """Return [B, A] Q(s_{t+1}, .) by one policy: the next step's, and after an episode's last step its final observation's, 0 at an end."""
    return following(batch, evaluate, "action_values")


def next_log_probs(batch: Batch, evaluate: Evaluate) -> Array:
    """Return [B, A] log pi(. given s_{t+1}), of the actions that are possible there; see `Batch.next_action_mask`."""
    return following(batch, evaluate, "log_probs")


def over_actions(log_probs: Array, values: Array) -> Array:
    """Return [B] sum_a pi_a values_a; an action of probability 0 adds nothing."""
    return np.where(log_probs > -np.inf, np.exp(log_probs) * values, 0.0).sum(axis=1)


def critic_loss(coefficient: float, action_value: Native, target: Native) -> Any:
    """Return coefficient (Q(s_t, a_t) - y)^2 / 2, or 0 without an action value."""
    if action_value is None:
        return 0.0
    error = action_value - target
    return coefficient * 0.5 * error * error


def following(batch: Batch, evaluate: Evaluate, name: str) -> Array:
    """Return [B, A] `next_values` of each column of a quantity; of one-step episodes, as a replay buffer gives them, just the final ones."""
    final = f"final_{name}"
    if batch.num_episodes == batch.num_steps:
        return evaluate(final)[final]
    found = evaluate(name, final)
    columns = zip(found[name].T, found[final].T, strict=True)
    return np.stack(
        [next_values(now, batch.episode_lengths, last) for now, last in columns], axis=1
    )
