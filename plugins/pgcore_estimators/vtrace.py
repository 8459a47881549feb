"""V-trace actor-critic: targets and advantages corrected for the policy that acted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.checks import number, positive_or_infinite, set_field, unit_interval
from pgcore.errors import EstimatorError
from pgcore.estimator import Claims, Estimator, Evaluate, Reduction
from pgcore.namespace import ArrayNamespace, Native
from pgcore.off_policy import vtrace
from pgcore_estimators.terms import bonus, bonus_cotangents, old_log_probs, state_values

__all__ = ["VTrace"]


@dataclass(frozen=True)
class VTrace(Estimator):
    """IMPALA's loss: mean over steps of -log pi A, plus value loss to V-trace targets, less entropy bonus.

    Attributes:
        rho_bar: Limit of the ratios that weigh TD errors; positive, `math.inf` for none. Below infinity the critic's fixed point is the
            value of a policy between the two.
        c_bar: Limit of the ratios that traces are cut by; positive.
        trace_lambda: In [0, 1]; as in GAE.
        gamma: Discount in [0, 1].
        value_coefficient: Of (V - target)^2 / 2.
        entropy_coefficient: Of the entropy bonus; 0 leaves it out.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    rho_bar: float = 1.0
    c_bar: float = 1.0
    trace_lambda: float = 1.0
    gamma: float = 0.99
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.0
    reduction: Reduction = Reduction.STEP
    name: ClassVar[str] = "vtrace"
    sources: ClassVar[tuple[str, ...]] = ("Espeholt et al. 2018, eq. 1 and sec. 4.2, arXiv:1802.01561",)

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("rho_bar", "c_bar"):
            set_field(self, name, positive_or_infinite(f"VTrace.{name}", getattr(self, name), EstimatorError))
        for name in ("gamma", "trace_lambda"):
            set_field(self, name, unit_interval(f"VTrace.{name}", getattr(self, name), EstimatorError))
        for name in ("value_coefficient", "entropy_coefficient"):
            set_field(self, name, number(f"VTrace.{name}", getattr(self, name), EstimatorError))
        set_field(self, "reduction", Reduction.of("VTrace.reduction", self.reduction))

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="limited", needs_critic=True, discrete_only=False)

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        return self.entropy_coefficient != 0

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `advantage` and the critic's target `return_`."""
        v_t, v_tp1 = state_values(batch, evaluate)
        log_ratio = evaluate("log_prob")["log_prob"] - old_log_probs(batch, evaluate)
        target, advantage = vtrace(
            batch.rewards,
            v_t,
            v_tp1,
            log_ratio,
            batch.episode_lengths,
            self.gamma,
            rho_bar=self.rho_bar,
            c_bar=self.c_bar,
            trace_lambda=self.trace_lambda,
        )
        return {"advantage": advantage, "return_": target}

    def surrogate(
        self,
        xp: ArrayNamespace,
        *,
        log_prob: Native,
        value: Native,
        advantage: Native,
        return_: Native,
        entropy: Native = None,
    ) -> Native:
        """See `Estimator.surrogate`: -log pi A + c_v (V - target)^2 / 2 - c_e H."""
        return -log_prob * advantage + bonus(self.value_coefficient, self.entropy_coefficient, value, return_, entropy)

    def cotangents(
        self, *, log_prob: Array, value: Array, advantage: Array, return_: Array, entropy: Array | None = None
    ) -> Mapping[str, Array]:
        """See `Estimator.cotangents`."""
        return {"log_prob": -advantage} | bonus_cotangents(
            self.value_coefficient, self.entropy_coefficient, value, return_, entropy
        )

    def metrics(self, *, value: Array, return_: Array, **others: Array) -> dict[str, float]:
        """See `Estimator.metrics`."""
        error = value - return_
        found = {"value_loss": float(0.5 * (error * error).mean())}
        return found | ({"entropy": float(others["entropy"].mean())} if "entropy" in others else {})
