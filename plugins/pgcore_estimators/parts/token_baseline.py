"""Returns to go against a baseline for each position in a group's episodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import BatchError
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.extras import Extra
from pgcore.interfaces.recorded import old_log_probs
from pgcore.returns import (
    cumulative_log_ratios,
    group_of_episode,
    group_ranks,
    returns,
    weighted_means,
)
from pgcore.validation.arrays import Array, check_rows
from pgcore.validation.fields import Flag, UnitInterval
from pgcore_estimators.parts.grouped import Grouped

__all__ = ["OptimalTokenBaseline"]


def example_squares(batch: Batch, *_: object) -> Array:
    """Return [B] sums of squared probabilities where two actions share the rest evenly."""
    assert batch.log_probs is not None
    # Densities of continuous actions may exceed 1.
    p = np.minimum(np.exp(batch.log_probs), 1.0)
    return np.exp(2.0 * batch.log_probs) + (1.0 - p) ** 2 / 2.0


def example_weights(_: Batch, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return [B] weights around 1."""
    return np.exp(0.3 * rng.standard_normal(shape))


SQUARES = Extra(
    "[B] number",
    "the sum over all actions of the old policy's squared probabilities",
    example_squares,
    advice="add np.exp(2 * log_probs).sum(1) of the old policy's log_probs",
)
WEIGHTS = Extra(
    "[B] number",
    "the weights that correct for the rollout policy",
    example_weights,
    when=lambda advantage: advantage.corrected,
    advice="add them, or set corrected=False",
)


@dataclass(frozen=True)
class OptimalTokenBaseline(Grouped):
    """A_t = G_t - sum_i(G W) / sum_i(W) over the group's episodes i that have a step t.

    W_t = sum_{j <= t} (1 - 2 pi_j + sum_a pi(a given s_j)^2) is the squared gradient of log pi in
    the logits, summed up to t, with pi the old policy. The sum over actions is the batch's extra
    `squared_probs`, [B].

    Attributes:
        gamma: Discount in [0, 1].
        corrected: Multiply the terms of W by the squares of the batch's extra
            `correction_weights`, [B], which a correction for the rollout policy has.
        lone: A of a step without others at its t: "zero", "raw" for G_t; "error" refuses groups of
            one episode, and has 0 beyond the second longest of a group.
        group, count_masked: See `GroupRelative`.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    gamma: UnitInterval = 1.0
    corrected: Flag = False
    extras: ClassVar = {"squared_probs": SQUARES, "correction_weights": WEIGHTS}
    name = "optimal_token_baseline"
    sources = ("verl, docs/algo/otb.md", "arXiv:2602.07078 (2026)")

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        g_t = returns(rewards, batch.episode_lengths, batch.step_discounts(self.gamma))
        members, rank = self.counted(batch), group_ranks(batch, self.group)
        counted = members[batch.episode_of_step]
        if self.lone == "error":
            self._check_groups(group_of_episode(batch, self.group)[members])
        energy = cumulative_log_ratios(self._energy(batch, evaluate), batch.episode_lengths)
        # One number for each group and position.
        longest = int(batch.episode_lengths.max())
        numbers = rank[batch.episode_of_step] * longest + batch.step_in_episode
        baseline = weighted_means(g_t, np.where(counted, energy, 0.0), numbers)
        alone = np.bincount(numbers, counted)[numbers] < 2
        advantage = np.where(alone, g_t if self.lone == "raw" else 0.0, g_t - baseline)
        return {"advantage": np.where(counted, advantage, 0.0)}

    def _energy(self, batch: Batch, evaluate: Evaluate) -> Array:
        """Return [B] the squared gradients of log pi in the logits."""
        probability = np.exp(old_log_probs(batch, evaluate))
        energy = 1.0 - 2.0 * probability + batch.extras["squared_probs"]
        # It is at least (1 - pi)^2, but for rounding and for a policy that has moved since.
        possible = energy >= -1e-6
        rule = "at least the squared probability of the action"
        got, advice = batch.extras["squared_probs"], "sum over all actions of one policy"
        check_rows(f"{type(batch).__name__}.extras['squared_probs']", rule, possible, got, advice)
        energy = np.maximum(energy, 0.0)
        return energy * batch.extras["correction_weights"] ** 2 if self.corrected else energy

    def _check_groups(self, groups: Array) -> None:
        """Raise BatchError for a group of one episode."""
        numbers, counts = np.unique(groups, return_counts=True)
        if (counts == 1).any():
            raise BatchError(
                f"group {numbers[counts.argmin()]}: {self}: expected at least 2 episodes in each "
                "group, got 1; collect more, or set lone='zero'"
            )
