"""The surrogate of trust region policy optimisation: the ratio times the advantage, unclipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number, UnitInterval
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_estimators.critic_loss import CriticLoss
from pgcore_estimators.terms import (
    Ddof,
    Normalisation,
    gae_and_returns,
    normalise_advantages,
    old_log_probs,
)

__all__ = ["TRPO"]


@dataclass(frozen=True)
class TRPO(CriticLoss):
    """TRPO's surrogate with GAE advantages A; r = pi(a_t given s_t) / pi_old(a_t given s_t).

    loss = mean over steps of -r A + c_v (V(s_t) - R_t)^2 / 2 - c_e H_t

    The optimizer keeps the policy near the old one, `trpo` by default; the loss does not. At
    r = 1 its gradient is that of `actor_critic`: with the optimizer `natural_gradient` either is
    the natural policy gradient.

    Attributes:
        gamma: Discount in [0, 1].
        gae_lambda: In [0, 1].
        value_coefficient: c_v, of the loss of V to R, the advantage plus the old value.
        entropy_coefficient: c_e, of the entropy bonus; 0 leaves it out.
        normalise: "batch" to give advantages mean 0 and standard deviation 1, or "none".
        ddof: Of that standard deviation.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 0.99
    gae_lambda: UnitInterval = 0.95
    value_coefficient: Number = 0.5
    entropy_coefficient: Number = 0.0
    # On by default: the entropy bonus then weighs alike in every unit of reward.
    normalise: Normalisation = "batch"
    ddof: Ddof = 1
    name: ClassVar[str] = "trpo"
    usual_optimizer: ClassVar[str] = "trpo"
    sources: ClassVar[tuple[str, ...]] = (
        "Schulman et al. 2015, eq. 14, arXiv:1502.05477",
        "Schulman et al. 2016, eqs. 16 and 31, arXiv:1506.02438 (GAE)",
    )

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; the old policy is the batch's, by default the current one."""
        a_t, g_t = gae_and_returns(batch, evaluate, self.gamma, self.gae_lambda)
        return {
            "advantage": normalise_advantages(batch, a_t, self.normalise, self.ddof),
            "return_": g_t,
            "old_log_prob": old_log_probs(batch, evaluate),
        }

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native,
        value: Native,
        old_log_prob: Native,
        advantage: Native,
        return_: Native,
        entropy: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`: -r A + c_v (V - R)^2 / 2 - c_e H."""
        ratio = xp.exp(log_prob - old_log_prob)
        return self.add_auxiliary_terms(-advantage * ratio, value, return_, entropy)

    def cotangents(
        self,
        *,
        log_prob: Array,
        value: Array,
        old_log_prob: Array,
        advantage: Array,
        return_: Array,
        entropy: Array | None = None,
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        # d exp(log ratio) / d log pi is the ratio again.
        slope = -advantage * np.exp(log_prob - old_log_prob)
        return {"log_prob": slope} | self.auxiliary_cotangents(value, return_, entropy)
