"""The entropy-regularised actor over all actions, with action values held constant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.heads.discrete import finite_or_zero
from pgcore.interfaces.estimator import AnyReduction, Claims, Estimator, Evaluate, Reduction
from pgcore.validation.arrays import Array
from pgcore.validation.fields import NonNegative, Number, UnitInterval
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.action_values import (
    constant_action_values,
    critic_loss,
    next_log_probs,
    next_q,
    over_actions,
)

__all__ = ["SoftActor"]


@dataclass(frozen=True)
class SoftActor(Estimator):
    """Soft actor: mean over steps of J = -sum_a pi_a (Q_a - alpha log pi_a), Q constant.

    With a softmax of temperature tau, dJ/dw_k = pi_k (alpha log pi_k - Q_k - J) / tau; the least J is -alpha logsumexp(Q / alpha).
    Q is the batch's extra `action_values` [B, A], or where it has none the policy's own.

    Attributes:
        alpha: Of the entropy, reward units; at least 0.
        gamma: Discount in [0, 1] of what is bootstrapped.
        value_coefficient: Of (Q(s_t, a_t) - y)^2 / 2, y = r + gamma sum_a pi_a (Q'_a - alpha log pi_a) at s_{t+1} with the target policy's
            Q'; 0 leaves it out, and a policy without action values will do if the batch gives them.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    alpha: NonNegative = 0.2
    gamma: UnitInterval = 0.99
    value_coefficient: Number = 0.5
    reduction: AnyReduction = Reduction.STEP
    name: ClassVar[str] = "soft_actor"
    sources: ClassVar[tuple[str, ...]] = (
        "Haarnoja et al. 2018, eq. 3 and 7, arXiv:1801.01290",
        "Christodoulou 2019 (discrete actions), arXiv:1910.07207",
    )

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`; any policy's states and actions will do."""
        return Claims(unbiased=False, off_policy="limited", needs_critic=False, discrete_only=True)

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return self.value_coefficient != 0

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `q`, and where action values are learned their `target`."""
        q = constant_action_values(batch, evaluate)
        if self.value_coefficient == 0:
            return {"q": q}
        log_probs, following = next_log_probs(batch, evaluate), next_q(batch, evaluate.target)
        soft = over_actions(log_probs, following - self.alpha * finite_or_zero(host, log_probs))
        goes_on = np.ones(batch.num_steps)
        goes_on[batch.episode_ends] = ~batch.terminated
        return {"q": q, "target": batch.rewards + self.gamma * goes_on * soft}

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_probs: Native,
        q: Native,
        action_value: Native = None,
        target: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`: sum_a pi_a (alpha log pi_a - Q_a) + c_v (Q(s_t, a_t) - y)^2 / 2."""
        j = xp.sum(xp.exp(log_probs) * (self.alpha * finite_or_zero(xp, log_probs) - q), 1)
        return j + critic_loss(self.value_coefficient, action_value, target)

    def cotangents(
        self,
        *,
        log_probs: Array,
        q: Array,
        action_value: Array | None = None,
        target: Array | None = None,
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`; the softmax cancels the alpha that stands alone."""
        soft = self.alpha * finite_or_zero(host, log_probs) - q
        found: dict[str, Array] = {"log_probs": np.exp(log_probs) * (soft + self.alpha)}
        if action_value is not None:
            found["action_value"] = self.value_coefficient * (action_value - target)
        return found
