"""Trust region policy optimisation's surrogate: the ratio times the advantage, unclipped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.checks import number, one_of, set_field, unit_interval
from pgcore.errors import EstimatorError
from pgcore.estimator import Claims, Estimator, Evaluate
from pgcore.namespace import ArrayNamespace, Native
from pgcore.signals import gae, normalise
from pgcore_estimators.terms import bonus, bonus_cotangents, old_log_probs, ratio_metrics, state_values

__all__ = ["TRPO"]


@dataclass(frozen=True)
class TRPO(Estimator):
    """-r A with r = pi / pi_old and GAE advantages, plus value loss, less entropy bonus; mean over steps.

    Nothing in it holds the policy near the old one: the optimizer does, `trpo` by default. At r = 1 its gradient is that of
    `actor_critic`, so with `natural_gradient` either is the natural policy gradient.

    Attributes:
        gamma: Discount in [0, 1].
        gae_lambda: In [0, 1].
        value_coefficient: Of (V - R)^2 / 2, with R the advantage plus the old value.
        entropy_coefficient: Of the entropy bonus; 0 leaves it out.
        normalise: "batch" to give advantages mean 0 and standard deviation 1, or "none".
        ddof: Of that standard deviation.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: float = 0.99
    gae_lambda: float = 0.95
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0
    normalise: str = "batch"
    ddof: int = 1
    name: ClassVar[str] = "trpo"
    usual_optimizer: ClassVar[str] = "trpo"
    sources: ClassVar[tuple[str, ...]] = (
        "Schulman et al. 2015, eq. 14, arXiv:1502.05477",
        "Schulman et al. 2016, eqs. 16 and 31, arXiv:1506.02438 (GAE)",
    )

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("gamma", "gae_lambda"):
            set_field(self, name, unit_interval(f"TRPO.{name}", getattr(self, name), EstimatorError))
        for name in ("value_coefficient", "entropy_coefficient"):
            set_field(self, name, number(f"TRPO.{name}", getattr(self, name), EstimatorError))
        one_of("TRPO.normalise", self.normalise, ("none", "batch"), EstimatorError)
        one_of("TRPO.ddof", self.ddof, (0, 1), EstimatorError)

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="none", needs_critic=True, discrete_only=False)

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return self.entropy_coefficient != 0

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`; the old policy is the batch's, or where it says nothing the current one."""
        v_t, v_tp1 = state_values(batch, evaluate)
        a_t = gae(batch.rewards, v_t, v_tp1, batch.episode_lengths, self.gamma, self.gae_lambda)
        return {
            "advantage": normalise(a_t, batch.step_weights, ddof=self.ddof) if self.normalise == "batch" else a_t,
            "return_": a_t + v_t,
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
        gain = advantage * xp.exp(log_prob - old_log_prob)
        return bonus(self.value_coefficient, self.entropy_coefficient, value, return_, entropy) - gain

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
        return {"log_prob": -advantage * np.exp(log_prob - old_log_prob)} | bonus_cotangents(
            self.value_coefficient, self.entropy_coefficient, value, return_, entropy
        )

    def metrics(
        self, *, log_prob: Array, old_log_prob: Array, value: Array, return_: Array, **others: Array
    ) -> dict[str, float]:
        """See `Estimator.metrics`; `approx_kl` is the mean of r - 1 - log r, from samples."""
        found = ratio_metrics(log_prob, old_log_prob, value, return_)
        return found | ({"entropy": float(others["entropy"].mean())} if "entropy" in others else {})
