"""Proximal policy optimisation: a clipped surrogate, or an adaptive KL penalty."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.extras import Extra
from pgcore.interfaces.recorded import recorded_values
from pgcore.returns import gae, normalise
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number, Positive, UnitInterval, choice
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore_estimators.critic_loss import CriticLoss
from pgcore_estimators.terms import (
    Ddof,
    clipped_gain,
    clipped_gain_slope,
    is_clipped,
    log_bounds,
    old_log_probs,
    state_values,
)

__all__ = ["PPO"]

# A masked action's log-probability is -inf.
REFERENCE = Extra(
    "[B, width] number",
    "the old policy's distribution parameters",
    optional=True,
    when=lambda estimator: estimator.objective == "kl",
    finite=False,
)


@dataclass(frozen=True)
class PPO(CriticLoss):
    """PPO with GAE advantages A; r = pi(a_t given s_t) / pi_old(a_t given s_t).

    loss = mean over steps of L_t + c_v (V(s_t) - R_t)^2 / 2 - c_e H_t
    L_t = -min(r A, clip(r, 1 - clip, 1 + clip) A)      objective "clip"
    L_t = -r A + beta KL(pi_old, pi)                    objective "kl"

    A ratio exactly at a bound counts as unclipped. The clipped branch is chosen from the log
    ratio, before any exponential is taken.

    Attributes:
        objective: "clip" or "kl".
        clip: Of the ratio; positive.
        kl_coefficient: beta, of the penalty; `adapted` doubles it when the mean KL exceeds
            1.5 kl_target and halves it below kl_target / 1.5.
        kl_target: Mean KL an update should have, nats; None keeps the coefficient as it is.
        gamma: Discount in [0, 1].
        gae_lambda: In [0, 1].
        value_coefficient: c_v, of the loss of V to R, the advantage plus the old value.
        value_clip: Clip V to within this of the batch's recorded value, and take the larger loss;
            None does not.
            Old values are the batch's recorded `values`, else the current critic's. Without
            recorded ones, compute signals once, before the first optimizer step; it is an error
            where the batch's log-probabilities show that the policy has changed since.
        entropy_coefficient: c_e, of the entropy bonus; 0 leaves it out.
        normalise: Give advantages mean 0 and standard deviation 1: "none", "batch" or "minibatch".
        ddof: Of that standard deviation.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    # Schulman et al. 2017, sec. 6.1 and table 3: clip 0.2, gamma 0.99, lambda 0.95.
    objective: Annotated[str, choice("clip", "kl")] = "clip"
    clip: Positive = 0.2
    kl_coefficient: Number = 1.0
    kl_target: Positive | None = 0.01
    gamma: UnitInterval = 0.99
    gae_lambda: UnitInterval = 0.95
    value_coefficient: Number = 0.5
    value_clip: Positive | None = None
    entropy_coefficient: Number = 0.0
    normalise: Annotated[str, choice("none", "batch", "minibatch")] = "minibatch"
    ddof: Ddof = 1
    extras: ClassVar = {"reference": REFERENCE}
    name: ClassVar[str] = "ppo"
    sources: ClassVar[tuple[str, ...]] = (
        "Schulman et al. 2017, eqs. 7 and 8, arXiv:1707.06347",
        "Schulman et al. 2016, eq. 16, arXiv:1506.02438 (GAE)",
    )

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return {
            "kl": self.objective == "kl",
            "entropy": self.entropy_coefficient != 0,
            "old_value": self.value_clip is not None,
        }[name]

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; the old policy is the batch's, by default the current one."""
        # Around the current critic's values nothing would be clipped, and no error would be seen.
        if self.uses("old_value"):
            recorded_values(batch, "PPO.value_clip")
        v_t, v_tp1 = state_values(batch, evaluate)
        gamma = batch.step_discounts(self.gamma)
        a_t = gae(batch.rewards, v_t, v_tp1, batch.episode_lengths, gamma, self.gae_lambda)
        signals = {
            "advantage": a_t,
            "return_": a_t + v_t,
            "old_log_prob": old_log_probs(batch, evaluate),
        }
        if self.normalise == "batch":
            signals["advantage"] = normalise(a_t, batch.step_weights, ddof=self.ddof)
        if self.uses("old_value"):
            signals["old_value"] = v_t
        # The KL penalty needs the old policy's distribution parameters, not one log-probability.
        if self.uses("kl"):
            reference = batch.extras.get("reference")
            if reference is None:
                reference = evaluate("distribution")["distribution"]
            signals["reference"] = reference
        return signals

    def finalise(self, signals: dict[str, Array], padding: Array | None) -> dict[str, Array]:
        """See `Estimator.finalise`: minibatch normalisation of the advantages."""
        if self.normalise != "minibatch":
            return signals
        return signals | {"advantage": normalise(signals["advantage"], padding, ddof=self.ddof)}

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
        kl: Native = None,
        old_value: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`: L_t + c_v (V - R)^2 / 2 - c_e H."""
        log_ratio = log_prob - old_log_prob
        if self.objective == "kl":
            policy = self.kl_coefficient * kl - advantage * xp.exp(log_ratio)
        else:
            policy = -clipped_gain(xp, log_ratio, advantage, self._bounds)
        if self.value_clip is None:
            return self.add_auxiliary_terms(policy, value, return_, entropy)
        # The larger of two squares is the square of the error that is larger in magnitude.
        error = self._worse_error(xp, value, old_value, return_)
        value_loss = self.value_coefficient * 0.5 * error * error
        return self.add_auxiliary_terms(policy + value_loss, entropy=entropy)

    def cotangents(
        self,
        *,
        log_prob: Array,
        value: Array,
        old_log_prob: Array,
        advantage: Array,
        return_: Array,
        entropy: Array | None = None,
        kl: Array | None = None,
        old_value: Array | None = None,
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        log_ratio = log_prob - old_log_prob
        cotangents = self.auxiliary_cotangents(value, return_, entropy)
        if kl is not None:
            cotangents["log_prob"] = -advantage * np.exp(log_ratio)
            cotangents["kl"] = np.full_like(kl, self.kl_coefficient)
        else:
            cotangents["log_prob"] = -clipped_gain_slope(log_ratio, advantage, self._bounds)
        # A clipped value is constant in V; at its bound and on a tie the unclipped V takes the slope.
        if old_value is not None:
            error = value - return_
            inside = np.abs(value - old_value) <= self.value_clip
            unclipped = inside | (
                np.abs(error) >= np.abs(self._worse_error(np, value, old_value, return_))
            )
            cotangents["value"] = np.where(unclipped, self.value_coefficient * error, 0.0)
        return cotangents

    def clipped(self, log_ratio: Array, advantage: Array) -> Array:
        """See `Estimator.clipped`: nowhere with the penalty."""
        return is_clipped(log_ratio, advantage, self._bounds) & (self.objective == "clip")

    def adapted(self, metrics: Mapping[str, float]) -> PPO:
        """See `Estimator.adapted`: the penalty's coefficient follows the update's mean KL."""
        if self.objective != "kl" or self.kl_target is None:
            return self
        # The factors 1.5 and 2 are those of Schulman et al. 2017, sec. 4.
        if metrics["kl"] > 1.5 * self.kl_target:
            return dataclasses.replace(self, kl_coefficient=self.kl_coefficient * 2.0)
        if metrics["kl"] < self.kl_target / 1.5:
            return dataclasses.replace(self, kl_coefficient=self.kl_coefficient / 2.0)
        return self

    @property
    def _bounds(self) -> tuple[float, float]:
        return log_bounds(self.clip, self.clip)

    def _worse_error(self, xp: Any, value: Native, old_value: Native, return_: Native) -> Native:
        """Return V - R, or the clipped V's, whichever is larger in magnitude; V - R on a tie."""
        moved = value - old_value
        # A choice, not a clip: its derivative at the bound is the same in every framework.
        limited = xp.where(moved > 0, old_value + self.value_clip, old_value - self.value_clip)
        error = value - return_
        clipped_error = xp.where(xp.abs(moved) <= self.value_clip, value, limited) - return_
        return xp.where(xp.abs(error) >= xp.abs(clipped_error), error, clipped_error)
