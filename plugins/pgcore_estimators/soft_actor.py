"""The entropy-regularised actor over all actions, with action values held constant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.heads.discrete import finite_or_zero
from pgcore.interfaces.estimator import AnyReduction, Claims, Evaluate, Reduction
from pgcore.validation.arrays import Array
from pgcore.validation.fields import NonNegative, Number, UnitInterval
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.action_values import (
    ACTION_VALUES,
    ActionCriticLoss,
    constant_action_values,
    expect_over_actions,
    next_log_probs,
    next_q,
)

__all__ = ["SoftActor"]


@dataclass(frozen=True)
class SoftActor(ActionCriticLoss):
    """Soft actor-critic of discrete actions, with Q held constant in the actor's loss J.

    loss = mean over steps of J_t + c_v (Q(s_t, a_t) - y_t)^2 / 2
    J_t = -sum_a pi_a (Q(s_t, a) - alpha log pi_a)
    y_t = r_t + gamma sum_a pi_a (Q'(s_{t+1}, a) - alpha log pi_a) at s_{t+1}, constant,
    Q' the target policy's

    With a softmax of temperature tau, dJ/dw_k = pi_k (alpha log pi_k - Q_k - J) / tau; the least J
    is -alpha logsumexp(Q / alpha). Q is the batch's extra `action_values` [B, A], by default the
    policy's.

    Attributes:
        alpha: Of the entropy, reward units; at least 0.
        gamma: Discount in [0, 1] of the bootstrapped value.
        value_coefficient: c_v, of the critic's loss. 0 leaves it out: the policy then needs no
            action values if the batch has them.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    alpha: NonNegative = 0.2
    gamma: UnitInterval = 0.99
    value_coefficient: Number = 0.5
    reduction: AnyReduction = Reduction.STEP
    extras: ClassVar = {"action_values": ACTION_VALUES}
    name: ClassVar[str] = "soft_actor"
    sources: ClassVar[tuple[str, ...]] = (
        "Haarnoja et al. 2018, eq. 3 and 7, arXiv:1801.01290",
        "Christodoulou 2019 (discrete actions), arXiv:1910.07207",
    )

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`; any policy's states and actions will do."""
        return Claims(unbiased=False, off_policy="limited", needs_critic=False, discrete_only=True)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `q`, and the critic's `target` unless its coefficient is 0."""
        q = constant_action_values(batch, evaluate)
        if self.value_coefficient == 0:
            return {"q": q}
        log_probs, q_tp1 = next_log_probs(batch, evaluate), next_q(batch, evaluate.target)
        # After a terminal step Q' and log pi are both 0, so no value is bootstrapped there.
        soft_q = q_tp1 - self.alpha * finite_or_zero(host, log_probs)
        v_tp1 = expect_over_actions(log_probs, soft_q)
        return {"q": q, "target": batch.rewards + batch.step_discounts(self.gamma) * v_tp1}

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_probs: Native,
        q: Native,
        action_value: Native = None,
        target: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`: J + c_v (Q(s_t, a_t) - y)^2 / 2."""
        j = xp.sum(xp.exp(log_probs) * (self.alpha * finite_or_zero(xp, log_probs) - q), 1)
        return self.add_auxiliary_terms(j, action_value, target)

    def cotangents(
        self,
        *,
        log_probs: Array,
        q: Array,
        action_value: Array | None = None,
        target: Array | None = None,
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        # The product rule leaves an alpha, which a softmax cancels: the probabilities sum to 1.
        soft = self.alpha * finite_or_zero(host, log_probs) - q
        actor = {"log_probs": np.exp(log_probs) * (soft + self.alpha)}
        return actor | self.auxiliary_cotangents(action_value, target)
