"""V-trace: targets and advantages corrected for the behaviour policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate, OffPolicy
from pgcore.interfaces.recorded import old_log_probs
from pgcore.parts import Advantage
from pgcore.returns import vtrace
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, PositiveOrInfinite, UnitInterval, choice
from pgcore_estimators.terms import state_values

__all__ = ["VTraceAdvantage"]


@dataclass(frozen=True)
class VTraceAdvantage(Advantage):
    """A_t = min(pg_rho_bar, pi / mu) (r_t + gamma q_{t+1} - V(s_t)), and R = v; see `returns.vtrace`.

    v_t = V(s_t) + sum_{k >= t} gamma^(k - t) (prod_{t <= i < k} c_i) rho_k delta_k, with
    rho = min(rho_bar, pi / mu), c = lambda min(c_bar, pi / mu), and pi the current policy at the
    time of the signals.

    Attributes:
        gamma: Discount in [0, 1].
        rho_bar: Limit of the ratios that weigh TD errors; positive, `math.inf` for none.
        c_bar: Limit of the ratios that shorten traces; positive.
        trace_lambda: lambda in [0, 1], as in GAE.
        pg_rho_bar: Limit of the advantage's ratio; None is `rho_bar`.
        bootstrap: q_{t+1}: "target" for v_{t+1}, "mixed" for lambda v_{t+1} + (1 - lambda)
            V(s_{t+1}).
        weighted: Whether A has its ratio; False for an objective of ratios, which has one itself.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 0.99
    # Both limits are 1 in Espeholt et al. 2018.
    rho_bar: PositiveOrInfinite = 1.0
    c_bar: PositiveOrInfinite = 1.0
    trace_lambda: UnitInterval = 1.0
    pg_rho_bar: PositiveOrInfinite | None = None
    bootstrap: Annotated[str, choice("target", "mixed")] = "target"
    weighted: Flag = True
    name = "vtrace"
    sources = (
        "Espeholt et al. 2018, eq. 1 and sec. 4.2, arXiv:1802.01561",
        "rlax, vtrace_td_error_and_advantage (pg_rho_bar, 'mixed')",
    )

    @property
    def off_policy(self) -> OffPolicy:
        """See `Advantage`; without its ratio A corrects the values alone."""
        return "limited" if self.weighted else "none"

    @property
    def needs_critic(self) -> bool:
        """See `Advantage`."""
        return True

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        v_t, v_tp1 = state_values(batch, evaluate)
        target, advantage = vtrace(
            rewards,
            v_t,
            v_tp1,
            evaluate("log_prob")["log_prob"] - old_log_probs(batch, evaluate),
            batch.episode_lengths,
            batch.step_discounts(self.gamma),
            rho_bar=self.rho_bar,
            c_bar=self.c_bar,
            trace_lambda=self.trace_lambda,
            pg_rho_bar=self.pg_rho_bar,
            bootstrap=self.bootstrap,
            weighted=self.weighted,
        )
        return {"advantage": advantage, "return_": target}
