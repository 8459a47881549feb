"""Q-learning: the squared error of action values to a constant bootstrapped target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import AnyReduction, Claims, Estimator, Evaluate, Reduction
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, Positive, UnitInterval
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_estimators.action_values import next_q

__all__ = ["QLearning"]


@dataclass(frozen=True)
class QLearning(Estimator):
    """Q-learning, with the target y held constant.

    loss = mean over steps of (Q(s_t, a_t) - y_t)^2 / 2
    y_t = r_t + gamma max_a Q'(s_{t+1}, a), without the second term after a terminal step

    Q' is the target policy's (`pg.signals(..., target=policy)`), by default the current one's. A
    replay batch is one of one-step episodes; with masked actions its extra `next_action_mask`
    lists the possible next actions.

    Attributes:
        gamma: Discount in [0, 1].
        double: Choose the next action by the current Q, and value it by the target's.
        huber: Beyond this error the loss grows linearly with this slope; None squares every error.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 0.99
    double: Flag = False
    huber: Positive | None = None
    reduction: AnyReduction = Reduction.STEP
    name: ClassVar[str] = "q_learning"
    sources: ClassVar[tuple[str, ...]] = (
        "Watkins and Dayan 1992",
        "Mnih et al. 2015, algorithm 1 (target network)",
        "van Hasselt, Guez and Silver 2016, arXiv:1509.06461 (double)",
    )

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`; the policy's own outputs can be the action values."""
        return Claims(unbiased=False, off_policy="limited", needs_critic=False, discrete_only=True)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `target`."""
        q_tp1 = next_q(batch, evaluate.target)
        # Choosing and valuing an action by one noisy Q overestimates its value.
        selector = next_q(batch, evaluate) if self.double else q_tp1
        if batch.next_action_mask is not None:
            selector = np.where(batch.next_action_mask, selector, -np.inf)
        a_tp1 = selector.argmax(axis=1)
        v_tp1 = q_tp1[np.arange(batch.num_steps), a_tp1]
        return {"target": batch.rewards + batch.step_discounts(self.gamma) * v_tp1}

    def surrogate(self, xp: ArrayNamespace, *, action_value: Native, target: Native) -> Native:
        """See `Estimator.surrogate`: c (e - c / 2), with c the error e limited to the Huber bound."""
        error = action_value - target
        # Without a bound c is e, and the term e^2 / 2.
        limited = error if self.huber is None else xp.clip(error, -self.huber, self.huber)
        return limited * (error - 0.5 * limited)

    def cotangents(self, *, action_value: Array, target: Array) -> Mapping[str, Array]:
        """See `Estimator.cotangents`: the error, limited to the Huber bound."""
        error = action_value - target
        return {
            "action_value": error if self.huber is None else np.clip(error, -self.huber, self.huber)
        }
