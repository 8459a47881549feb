"""The entropy-regularised actor over all actions, with action values held constant."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError
from pgcore.heads.discrete import finite_or_zero
from pgcore.interfaces.estimator import AnyReduction, Claims, Evaluate, Reduction
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, NonNegative, Number, Positive, UnitInterval
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
    policy's. Of twin critics Q in J and Q' in y are the smaller of the two values, action by
    action, and each critic has the squared error to y.

    A learned alpha changes between updates: `adapted` sets log alpha to
    log alpha - temperature_rate (H - H*), a gradient step on log alpha (H - H*). H is the mean
    entropy at the steps of the update's last gradient, H* `target_entropy` times the mean log of
    their numbers of possible actions. Differs from the paper: without the optimizer Adam.

    Attributes:
        alpha: Of the entropy, reward units; at least 0. The first one, above 0, if it is learned.
        gamma: Discount in [0, 1] of the bootstrapped value.
        value_coefficient: c_v, of the critic's loss. 0 leaves it out: the policy then needs no
            action values if the batch has them.
        twin: Use twin critics; the policy has `critic_values="twin"`.
        target_entropy: H*, a fraction in [0, 1] of the entropy of equally likely actions; None
            keeps alpha as it is.
        temperature_rate: Of the steps of log alpha, 1 / nats.
        temperature: The learned alpha of the moment; None is the first one. Estimators that differ
            in it alone are equal, so that a backend compiles their loss once.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    alpha: NonNegative = 0.2
    gamma: UnitInterval = 0.99
    value_coefficient: Number = 0.5
    twin: Flag = False
    target_entropy: UnitInterval | None = None
    temperature_rate: Positive = 0.1
    temperature: Positive | None = dataclasses.field(default=None, compare=False)
    reduction: AnyReduction = Reduction.STEP
    extras: ClassVar = {"action_values": ACTION_VALUES}
    name: ClassVar[str] = "soft_actor"
    sources: ClassVar[tuple[str, ...]] = (
        "Haarnoja et al. 2018, eq. 3 and 7, arXiv:1801.01290",
        "Haarnoja et al. 2018, eq. 18 (learned temperature), sec. 6 (minimum), arXiv:1812.05905",
        "Christodoulou 2019 (discrete actions), eq. 10 to 12, arXiv:1910.07207",
    )

    def __post_init__(self) -> None:
        """Check the fields, and that alpha can be learned if it is to be."""
        super().__post_init__()
        if self.target_entropy is None and self.temperature is not None:
            raise EstimatorError(
                f"SoftActor.temperature: expected None without target_entropy, got "
                f"{self.temperature}; set alpha"
            )
        if self.target_entropy is not None and self.alpha == 0:
            raise EstimatorError(
                "SoftActor.alpha: expected a positive number with target_entropy, got 0; a factor "
                "changes it, so begin above 0"
            )

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`; any policy's states and actions will do."""
        # Without twins, the outputs of an epsilon-greedy policy can be the action values.
        return Claims(
            unbiased=False, off_policy="limited", needs_critic=self.twin, discrete_only=True
        )

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        if name == "temperature":
            return self.target_entropy is not None
        return super().uses(name) and (self.twin or name != "twin_action_value")

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `q`, and the critic's `target` unless its coefficient is 0.

        A learned alpha is the signal `temperature`, which a compiled loss takes as an input.
        """
        signals = {"q": constant_action_values(batch, evaluate, twin=self.twin)}
        alpha = self.alpha if self.temperature is None else self.temperature
        if self.uses("temperature"):
            signals["temperature"] = np.full(batch.num_steps, alpha)
        if self.value_coefficient == 0:
            return signals
        log_probs = next_log_probs(batch, evaluate)
        q_tp1 = next_q(batch, evaluate.target, twin=self.twin)
        # After a terminal step Q' and log pi are both 0, so no value is bootstrapped there.
        soft_q = q_tp1 - alpha * finite_or_zero(host, log_probs)
        v_tp1 = expect_over_actions(log_probs, soft_q)
        return signals | {"target": batch.rewards + batch.step_discounts(self.gamma) * v_tp1}

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_probs: Native,
        q: Native,
        action_value: Native = None,
        twin_action_value: Native = None,
        target: Native = None,
        temperature: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`: J + c_v (Q(s_t, a_t) - y)^2 / 2, of each critic."""
        pi, alpha = xp.exp(log_probs), self.alpha if temperature is None else temperature
        negative_entropy = xp.sum(pi * finite_or_zero(xp, log_probs), 1)
        j = alpha * negative_entropy - xp.sum(pi * q, 1)
        terms = self.add_auxiliary_terms(j, action_value, target)
        return self.add_auxiliary_terms(terms, twin_action_value, target)

    def cotangents(
        self,
        *,
        log_probs: Array,
        q: Array,
        action_value: Array | None = None,
        twin_action_value: Array | None = None,
        target: Array | None = None,
        temperature: Array | None = None,
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        alpha = self.alpha if temperature is None else temperature[:, None]
        # The product rule leaves an alpha, which a softmax cancels: the probabilities sum to 1.
        soft = alpha * finite_or_zero(host, log_probs) - q
        cotangents = {"log_probs": np.exp(log_probs) * (soft + alpha)}
        if twin_action_value is not None:
            error = twin_action_value - target
            cotangents["twin_action_value"] = self.value_coefficient * error
        return cotangents | self.auxiliary_cotangents(action_value, target)

    def metrics(
        self, *, log_probs: Array, temperature: Array | None = None, **keywords: Any
    ) -> dict[str, float]:
        """See `Estimator.metrics`: `alpha`, `entropy` and `target_entropy` of a learned alpha."""
        if self.target_entropy is None or temperature is None:
            return {}
        entropy = -(np.exp(log_probs) * finite_or_zero(host, log_probs)).sum(axis=1)
        largest = np.log((log_probs > -np.inf).sum(axis=1))
        return {
            "alpha": float(temperature[0]),
            "entropy": float(entropy.mean()),
            "target_entropy": self.target_entropy * float(largest.mean()),
        }

    def adapted(self, metrics: Mapping[str, float]) -> SoftActor:
        """See `Estimator.adapted`: a learned alpha falls where the entropy is above its target."""
        # An update without a step, as before a replay buffer has its first ones, has no metrics.
        if self.target_entropy is None or "target_entropy" not in metrics:
            return self
        excess = metrics["entropy"] - metrics["target_entropy"]
        alpha = self.alpha if self.temperature is None else self.temperature
        # An overflow is infinity, which the field refuses.
        with np.errstate(over="ignore"):
            factor = float(np.exp(-self.temperature_rate * excess))
        return dataclasses.replace(self, temperature=alpha * factor)
