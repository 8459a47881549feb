"""The all-action policy gradient: the expectation over actions is taken exactly, so the action drawn adds no noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import AnyReduction, Claims, Estimator, Evaluate, Reduction
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, Number, UnitInterval
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_estimators.action_values import (
    constant_action_values,
    critic_loss,
    next_log_probs,
    next_q,
    over_actions,
)

__all__ = ["Expected"]


@dataclass(frozen=True)
class Expected(Estimator):
    """All-action policy gradient: sum over a trajectory's steps of -sum_a pi(a given s_t) Q(s_t, a), Q constant, mean over trajectories.

    Q is the batch's extra `action_values` [B, A], or where it has none the policy's own.

    Attributes:
        gamma: Discount in [0, 1].
        discount_state: Weigh step t by gamma^t too, as the exact gradient of the discounted return does.
        value_coefficient: Of (Q(s_t, a_t) - y)^2 / 2, y = r + gamma sum_a pi(a given s_{t+1}) Q'(s_{t+1}, a) with the target policy's Q';
            0 leaves it out, and a policy without action values will do if the batch gives them.
        entropy_coefficient: Of the entropy bonus; 0 leaves it out.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 0.99
    discount_state: Flag = False
    value_coefficient: Number = 0.5
    entropy_coefficient: Number = 0.0
    reduction: AnyReduction = Reduction.TRAJECTORY
    name: ClassVar[str] = "expected"
    sources: ClassVar[tuple[str, ...]] = (
        "Sutton et al. 2000, theorem 1",
        "Sutton and Barto 2018, eq. 13.7 (all actions), eq. 6.9 (expected Sarsa)",
        "Ciosek and Whiteson 2018, arXiv:1706.05374",
    )

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`; states come from the current policy, and a Q that is not exact biases."""
        return Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=True)

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return (self.entropy_coefficient if name == "entropy" else self.value_coefficient) != 0

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `q`, and where action values are learned their `target`."""
        q = constant_action_values(batch, evaluate)
        if self.discount_state:
            q = q * (self.gamma**batch.step_in_episode)[:, None]
        if self.value_coefficient == 0:
            return {"q": q}
        following = over_actions(next_log_probs(batch, evaluate), next_q(batch, evaluate.target))
        return {"q": q, "target": batch.rewards + self.gamma * following}

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
        terms = -xp.sum(xp.exp(log_probs) * q, 1) + critic_loss(
            self.value_coefficient, action_value, target
        )
        return terms if entropy is None else terms - self.entropy_coefficient * entropy

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
        found: dict[str, Array] = {"log_probs": -np.exp(log_probs) * q}
        if action_value is not None:
            found["action_value"] = self.value_coefficient * (action_value - target)
        if entropy is not None:
            found["entropy"] = np.full_like(entropy, -self.entropy_coefficient)
        return found
