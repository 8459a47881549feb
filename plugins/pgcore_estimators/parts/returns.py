"""Discounted returns, less a baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.recorded import critic_values
from pgcore.parts import Advantage
from pgcore.returns import (
    episode_returns,
    leave_one_out_mean,
    optimal_baseline,
    returns,
    state_discounts,
)
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, Number, UnitInterval, choice

__all__ = ["Returns"]

BASELINES = ("none", "constant", "mean", "leave_one_out", "optimal", "value")


@dataclass(frozen=True)
class Returns(Advantage):
    """A_t = G_t - b_t, with G_t = r_t + gamma G_{t+1}, and R = G.

    With a critic, time limits bootstrap.

    Attributes:
        gamma: Discount in [0, 1].
        baseline: b, one of
            "none";
            "constant": `baseline_value`;
            "mean": of the batch's episodes, this one included; it shrinks the gradient;
            "leave_one_out": the mean over the other episodes, unbiased;
            "optimal": the scalar E[|g|^2 R] / E[|g|^2] over the other episodes, g their scores;
            "value": the critic's V(s_t).
        baseline_value: The constant, reward units.
        reward_to_go: Weigh a step with the rewards from it on, discounted from it (causality); False
            weighs every step with the whole episode's return, G_0.
        discount_state: Weigh step t by gamma^t too, as the exact gradient of the discounted return;
            without effect on the whole episode's return, which discounts from the start already.

    Raises:
        EstimatorError: a field has a value it cannot take.

    Example:
        >>> pg.estimator("policy_gradient", advantage=pg.Returns(0.9)).quantities
        ('log_prob',)
    """

    gamma: UnitInterval = 0.99
    baseline: Annotated[str, choice(*BASELINES)] = "none"
    baseline_value: Number = 0.0
    reward_to_go: Flag = True
    discount_state: Flag = False
    name = "returns"
    sources = (
        "Williams 1992, Machine Learning 8, eq. 11",
        "Greensmith, Bartlett and Baxter 2004, JMLR 5, sec. 4 (optimal baseline)",
        "Kool, van Hoof and Welling 2019 (leave one out)",
    )

    @property
    def unbiased(self) -> bool:
        """See `Advantage`; the batch's mean depends on the step's own action."""
        return self.baseline != "mean"

    @property
    def needs_critic(self) -> bool:
        """See `Advantage`."""
        return self.baseline == "value"

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`; the target is the return to go in either case."""
        gamma, lengths = batch.step_discounts(self.gamma), batch.episode_lengths
        v_t, final = critic_values(batch, evaluate) if self.needs_critic else (None, None)
        target = returns(rewards, lengths, gamma, final)
        g_t = target
        if not self.reward_to_go:
            g_t = episode_returns(target, lengths)[batch.episode_of_step]
        discount = self.discount(batch)
        signals = {} if discount is None else {"discount": discount}
        if v_t is not None:
            return {**signals, "advantage": g_t - v_t, "return_": target}
        if self.baseline in ("none", "constant"):
            baseline = self.baseline_value if self.baseline == "constant" else 0.0
        else:
            baseline = episode_baseline(self.baseline, batch, g_t, evaluate, discount)
        return {**signals, "advantage": g_t - baseline}

    def discount(self, batch: Batch) -> Array | None:
        """Return [B] gamma^t, or None for ones."""
        if not (self.discount_state and self.reward_to_go):
            return None
        return state_discounts(batch.episode_lengths, batch.step_discounts(self.gamma))


def episode_baseline(
    baseline: str, batch: Batch, g_t: Array, evaluate: Evaluate, discount: Array | None
) -> Array:
    """Return [B] a baseline from the returns of whole episodes, one number an episode.

    Args:
        baseline: "mean", "leave_one_out" or "optimal"; see `Returns`.
        batch: The episodes.
        g_t: [B] returns.
        evaluate: See `Estimator.signals`.
        discount: [B] weights of the scores or None.

    Raises:
        BatchError: fewer than 2 episodes where one is left out.
    """
    # Padding is no episode of its own and would bias a mean.
    real = batch.episode_weights > 0
    episode_return = episode_returns(g_t, batch.episode_lengths)
    by_episode = np.zeros_like(episode_return)
    if baseline == "mean":
        by_episode[real] = episode_return[real].mean()
    elif baseline == "leave_one_out":
        by_episode[real] = leave_one_out_mean(episode_return[real])
    else:
        # Of each episode: g sums the scores, u the scores times the return.
        g = evaluate.scores(discount)[real]
        u = evaluate.scores(g_t if discount is None else discount * g_t)[real]
        by_episode[real] = optimal_baseline(g, u, per_component=False)[:, 0]
    return by_episode[batch.episode_of_step]
