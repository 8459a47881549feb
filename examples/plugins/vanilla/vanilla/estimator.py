"""The estimator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pgcore as pg
from pgcore.interfaces.estimator import Evaluate
from pgcore.returns import returns
from pgcore.validation.arrays import Array
from pgcore.validation.fields import UnitInterval

__all__ = ["Vanilla"]


@dataclass(frozen=True)
class Vanilla(pg.Estimator):
    """loss = mean over trajectories of sum_t -log pi(a_t given s_t) G_t.

    Attributes:
        gamma: Discount of the return to go G_t, in [0, 1].
    """

    gamma: UnitInterval = 0.99
    reduction = pg.Reduction.TRAJECTORY
    name: ClassVar[str] = "vanilla"
    sources: ClassVar[tuple[str, ...]] = ("Williams 1992, Machine Learning 8, eq. 11",)

    @property
    def claims(self) -> pg.Claims:
        """`pgcore audit` confirms or refutes each of them."""
        return pg.Claims(
            unbiased=True,
            off_policy="none",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )

    def signals(self, batch: pg.Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """Return the constants of the loss, [B] each, from the whole batch, in NumPy."""
        return {"return_": returns(batch.rewards, batch.episode_lengths, self.gamma)}

    def surrogate(self, xp: Any, *, log_prob: Any, return_: Any) -> Any:
        """Return [B], the loss's term of each step, written with `xp` and operators alone."""
        return -log_prob * return_
