"""V-trace actor-critic: targets and advantages corrected for the behaviour policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import AnyReduction, Claims, Evaluate, Reduction
from pgcore.returns import vtrace
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number, PositiveOrInfinite, UnitInterval
from pgcore_estimators.critic_loss import ActorCriticLoss
from pgcore_estimators.terms import old_log_probs, state_values

__all__ = ["VTrace"]


@dataclass(frozen=True)
class VTrace(ActorCriticLoss):
    """IMPALA's loss, with rho = min(rho_bar, pi / mu) and c = lambda min(c_bar, pi / mu).

    loss = mean over steps of -log pi(a_t given s_t) A_t + c_v (V(s_t) - v_t)^2 / 2 - c_e H_t
    v_t = V(s_t) + sum_{k >= t} gamma^(k - t) (prod_{t <= i < k} c_i) rho_k delta_k
    A_t = rho_t (r_t + gamma v_{t+1} - V(s_t)),  delta_k = r_k + gamma V(s_{k+1}) - V(s_k)

    Targets v and advantages A are held constant.

    Attributes:
        rho_bar: Limit of the ratios that weigh TD errors; positive, `math.inf` for none. Below
            infinity the critic's fixed point is the value of a policy between the two.
        c_bar: Limit of the ratios that truncate traces; positive.
        trace_lambda: lambda in [0, 1], as in GAE.
        gamma: Discount in [0, 1].
        value_coefficient: c_v, of the value loss.
        entropy_coefficient: c_e, of the entropy bonus; 0 leaves it out.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    # Both limits are 1 in Espeholt et al. 2018.
    rho_bar: PositiveOrInfinite = 1.0
    c_bar: PositiveOrInfinite = 1.0
    trace_lambda: UnitInterval = 1.0
    gamma: UnitInterval = 0.99
    value_coefficient: Number = 0.5
    entropy_coefficient: Number = 0.0
    reduction: AnyReduction = Reduction.STEP
    name: ClassVar[str] = "vtrace"
    sources: ClassVar[tuple[str, ...]] = (
        "Espeholt et al. 2018, eq. 1 and sec. 4.2, arXiv:1802.01561",
    )

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="limited", needs_critic=True, discrete_only=False)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Estimator.signals`: `advantage` and the critic's target `return_`."""
        v_t, v_tp1 = state_values(batch, evaluate)
        # The current policy's log-probabilities are constants here, as the targets are.
        log_ratio = evaluate("log_prob")["log_prob"] - old_log_probs(batch, evaluate)
        target, advantage = vtrace(
            batch.rewards,
            v_t,
            v_tp1,
            log_ratio,
            batch.episode_lengths,
            batch.step_discounts(self.gamma),
            rho_bar=self.rho_bar,
            c_bar=self.c_bar,
            trace_lambda=self.trace_lambda,
        )
        return {"advantage": advantage, "return_": target}
