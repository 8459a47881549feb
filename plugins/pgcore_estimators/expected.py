"""The all-action policy gradient: an exact expectation over actions, without sampling noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import AnyReduction, Claims, Evaluate, Reduction
from pgcore.returns import state_discounts
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, Number, UnitInterval
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_estimators.action_values import (
    ACTION_VALUES,
    ActionCriticLoss,
    constant_action_values,
    expect_over_actions,
    next_log_probs,
    next_q,
)

__all__ = ["Expected"]


@dataclass(frozen=True)
class Expected(ActionCriticLoss):
    """All-action policy gradient, with Q held constant and expected Sarsa for the critic.

    loss = mean over trajectories of sum_t -sum_a pi(a given s_t) Q(s_t, a)
           + c_v (Q(s_t, a_t) - y_t)^2 / 2 - c_e H_t
    y_t = r_t + gamma sum_a pi(a given s_{t+1}) Q'(s_{t+1}, a), constant, Q' the target policy's

    Q is the batch's extra `action_values` [B, A], by default the policy's.

    Attributes:
        gamma: Discount in [0, 1].
        discount_state: Weigh step t by gamma^t too, as the exact gradient of the discounted return.
        value_coefficient: c_v, of the critic's loss. 0 leaves it out: the policy then needs no
            action values if the batch has them.
        entropy_coefficient: c_e, of the entropy bonus; 0 leaves it out.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 0.99
    discount_state: Flag = False
    value_coefficient: Number = 0.5
    entropy_coefficient: Number = 0.0
    reduction: AnyReduction = Reduction.TRAJECTORY
    extras: ClassVar = {"action_values": ACTION_VALUES}
    name: ClassVar[str] = "expected"
    sources: ClassVar[tuple[str, ...]] = (
        "Sutton et al. 2000, theorem 1",
        "Sutton and Barto 2018, eq. 13.7 (all actions), eq. 6.9 (expected Sarsa)",
        "Ciosek and Whiteson 2018, arXiv:1706.05374",
    )

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`; states come from the current policy, and an inexact Q biases."""
        return Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=True)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `q`, and the critic's `target` unless its coefficient is 0."""
        q = constant_action_values(batch, evaluate)
        if self.discount_state:
            gamma = batch.step_discounts(self.gamma)
            q = q * state_discounts(batch.episode_lengths, gamma)[:, None]
        if self.value_coefficient == 0:
            return {"q": q}
        # The next action is the current policy's, its value the target policy's.
        v_tp1 = expect_over_actions(next_log_probs(batch, evaluate), next_q(batch, evaluate.target))
        return {"q": q, "target": batch.rewards + batch.step_discounts(self.gamma) * v_tp1}

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_probs: Native,
        q: Native,
        action_value: Native = None,
        target: Native = None,
        entropy: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`: -sum_a pi_a Q_a + c_v (Q(s_t, a_t) - y)^2 / 2 - c_e H."""
        actor = -xp.sum(xp.exp(log_probs) * q, 1)
        return self.add_auxiliary_terms(actor, action_value, target, entropy)

    def cotangents(
        self,
        *,
        log_probs: Array,
        q: Array,
        action_value: Array | None = None,
        target: Array | None = None,
        entropy: Array | None = None,
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        # d pi_a / d log pi_a is pi_a; the head's derivative keeps the probabilities' sum at 1.
        actor = {"log_probs": -np.exp(log_probs) * q}
        return actor | self.auxiliary_cotangents(action_value, target, entropy)
