"""Advantages and baselines that the batch carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.extras import Extra
from pgcore.parts import Advantage
from pgcore.returns import returns
from pgcore.validation.arrays import Array
from pgcore.validation.fields import UnitInterval

__all__ = ["Given", "GreedyBaseline"]


def example_advantages(_: Batch, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return [B] advantages of either sign."""
    return rng.standard_normal(shape)


def example_greedy_rewards(_: Batch, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return [B] one number: a baseline must not depend on the actions."""
    return np.full(shape, 0.3 * rng.standard_normal())


ADVANTAGES = Extra("[B] number", "A of every step", example_advantages)
GREEDY_REWARDS = Extra(
    "[B] number",
    "the reward of the greedy answer to the same prompt, on every step",
    example_greedy_rewards,
    advice="decode each prompt greedily, and repeat the reward for all steps of its answers",
)


@dataclass(frozen=True)
class Given(Advantage):
    """A from the batch's extra `advantages`, [B], whatever computed it; rewards are not read."""

    extras: ClassVar = {"advantages": ADVANTAGES}
    name = "given"

    @property
    def whole_episodes(self) -> bool:
        """See `Advantage`; nothing is summed here."""
        return False

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        return {"advantage": batch.extras["advantages"].astype(np.float64)}


@dataclass(frozen=True)
class GreedyBaseline(Advantage):
    """A_t = G_t - R', with G_t = r_t + gamma G_{t+1} and R' the greedy answer's reward.

    R' is the batch's extra `greedy_rewards`, [B]. It does not depend on the sampled actions, so
    that the gradient stays unbiased.

    Attributes:
        gamma: Discount in [0, 1].

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 1.0
    extras: ClassVar = {"greedy_rewards": GREEDY_REWARDS}
    name = "greedy_baseline"
    sources = ("Li et al. 2024, eq. 4, arXiv:2310.10505",)

    @property
    def unbiased(self) -> bool:
        """See `Advantage`."""
        return True

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        g_t = returns(rewards, batch.episode_lengths, batch.step_discounts(self.gamma))
        return {"advantage": g_t - batch.extras["greedy_rewards"]}
