"""Signals and losses of estimators over action values: constant Q, the next step's Q, the critic."""

from __future__ import annotations

import functools
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.extras import Extra
from pgcore.returns import next_values
from pgcore.validation.arrays import Array
from pgcore_estimators.critic_loss import CriticLoss

__all__ = [
    "ACTION_VALUES",
    "ActionCriticLoss",
    "constant_action_values",
    "expect_over_actions",
    "next_log_probs",
    "next_q",
]

# The values of another critic, in place of the policy's own.
ACTION_VALUES = Extra("[B, A] float", "Q of every action, reward units", optional=True)
# The action values of the first critic and, of twins, the second.
Q_NAMES = ("action_values", "twin_action_values")


class ActionCriticLoss(CriticLoss):
    """The loss c_v (Q(s_t, a_t) - y)^2 / 2 - c_e H of an action-value critic; see `CriticLoss`."""

    critic_quantity: ClassVar[str] = "action_value"

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        # Without a critic to train, the policy needs no action values if the batch holds them.
        return (self.entropy_coefficient if name == "entropy" else self.value_coefficient) != 0


def constant_action_values(batch: Batch, evaluate: Evaluate, *, twin: bool = False) -> Array:
    """Return [B, A] Q(s_t, .): the batch's extra `action_values`, by default the policy's.

    Of `twin` critics it is the smaller value of each action.
    """
    q = batch.extras.get("action_values")
    if q is not None:
        return q
    return functools.reduce(np.minimum, evaluate(*Q_NAMES[: 1 + twin]).values())


def next_q(batch: Batch, evaluate: Evaluate, *, twin: bool = False) -> Array:
    """Return [B, A] Q(s_{t+1}, .) by one policy, 0 after a terminal step; see the above for `twin`."""
    return functools.reduce(np.minimum, next_quantities(batch, evaluate, Q_NAMES[: 1 + twin]))


def next_log_probs(batch: Batch, evaluate: Evaluate) -> Array:
    """Return [B, A] log pi(. given s_{t+1}), nats; -inf where `Batch.next_action_mask` forbids."""
    return next_quantities(batch, evaluate, ("log_probs",))[0]


def next_quantities(batch: Batch, evaluate: Evaluate, names: tuple[str, ...]) -> list[Array]:
    """Return [B, A] `next_values` of each column of each quantity."""
    finals = [f"final_{name}" for name in names]
    # A replay buffer's one-step episodes have final observations alone: one forward pass is saved.
    if batch.num_episodes == batch.num_steps:
        evaluated = evaluate(*finals)
        return [evaluated[final] for final in finals]
    evaluated, lengths = evaluate(*names, *finals), batch.episode_lengths
    pairs = zip(names, finals, strict=True)
    return [next_values(evaluated[name], lengths, evaluated[final]) for name, final in pairs]


def expect_over_actions(log_probs: Array, values: Array) -> Array:
    """Return [B] sum_a pi_a values_a from [B, A]; an action of probability 0 adds nothing."""
    return np.where(log_probs > -np.inf, np.exp(log_probs) * values, 0.0).sum(axis=1)
