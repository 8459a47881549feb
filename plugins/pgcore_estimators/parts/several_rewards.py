"""Several rewards of an episode against those of a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import EstimatorError, PgcoreError
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.extras import Extra
from pgcore.parts.composition import refusal
from pgcore.validation.arrays import Array, check_rows
from pgcore.validation.fields import choice, number
from pgcore_estimators.parts.group_relative import GroupRelative
from pgcore_estimators.parts.step_masks import ZeroVariance

__all__ = ["SeveralRewards"]


def weights_of(
    where: str, value: object, error: type[PgcoreError] = EstimatorError
) -> tuple[float, ...]:
    """Return a weight for each reward; see `pgcore.validation.fields`."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple) or not value:
        raise error(
            f"{where}: expected a list of numbers, one a reward, got {value!r:.80}; "
            "write it as [1.0, 0.5]"
        )
    return tuple(number(f"{where}[{i}]", weight, error) for i, weight in enumerate(value))


def example_rewards(batch: Batch, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return [B, K] rewards of different scales, constant in each episode."""
    rows = rng.standard_normal((batch.num_episodes, *shape[1:])) * (1.0 + np.arange(shape[1]))
    return rows[batch.episode_of_step]


def example_step_rewards(_: Batch, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return [B, K] rewards of different scales."""
    return rng.standard_normal(shape) * (1.0 + np.arange(shape[1]))


@dataclass(frozen=True)
class SeveralRewards(GroupRelative):
    """`GroupRelative` of K rewards from the batch's extra `rewards`, [B, K], and weights c_k.

    "sum": A is that of R = sum_k c_k R_k. "normalise": A = sum_k c_k A_k, with A_k that of R_k, so
    that no reward outweighs the others by its scale.

    Attributes:
        weights: c, one number a reward.
        first: "sum" or "normalise"; which of the two comes first.
        rows: The extra's rows: rewards of each "step", summed here, or those of the "episode" on
            each of its steps.
        scale, eps, ddof, leave_one_out, lone, group, count_masked: See `GroupRelative`.

    Raises:
        EstimatorError: a field has a value it cannot take, a penalty is in the reward, or the
            mask `zero_variance` is there.
    """

    weights: Annotated[Any, weights_of] = (1.0, 1.0)
    first: Annotated[str, choice("sum", "normalise")] = "sum"
    rows: Annotated[str, choice("step", "episode")] = "step"
    name = "several_rewards"
    sources = (
        "Shao et al. 2024, sec. 4.1.2, arXiv:2402.03300 (sum)",
        "Liu et al. 2026, arXiv:2601.05242 (normalise)",
    )

    @property
    def unbiased(self) -> bool:
        """See `Advantage`; of the return of the batch's own rewards, which are not read."""
        return False

    @property
    def used_extras(self) -> dict[str, Extra]:
        """See `Part.used_extras`: `rewards`, with a column for each weight."""
        form = f"[B, {len(self.weights)}] number"
        example = example_step_rewards if self.rows == "step" else example_rewards
        rewards = Extra(form, "rewards, a column for each weight", example)
        return super().used_extras | {"rewards": rewards}

    def meet(self, parts: Any) -> None:
        """See `Part.meet`."""
        for penalty in parts.penalties:
            if penalty.in_reward:
                raise refusal(self, "penalties in the loss", penalty, "set its place='loss'")
        for mask in parts.drops:
            # It compares the batch's own rewards, which may be equal where these are not.
            if isinstance(mask, ZeroVariance):
                raise refusal(self, "no mask by the batch's rewards", mask, "leave the mask out")

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        totals, weights = self._totals(batch), np.array(self.weights)
        if self.first == "sum":
            relative = self.relative((totals * weights).sum(axis=1), batch)
        else:
            columns = [self.relative(column, batch) for column in totals.T]
            relative = np.stack(columns, axis=1) @ weights
        return {"advantage": relative[batch.episode_of_step]}

    def _totals(self, batch: Batch) -> Array:
        """Return [E, K] rewards of whole episodes."""
        rewards = batch.extras["rewards"].astype(np.float64)
        if self.rows == "step":
            return np.add.reduceat(rewards, batch.episode_starts, axis=0)
        totals = rewards[batch.episode_starts]
        same = (rewards == totals[batch.episode_of_step]).all(axis=1)
        rule, advice = "one row throughout an episode", "repeat it, or set rows='step'"
        check_rows(f"{type(batch).__name__}.extras['rewards']", rule, same, "another", advice)
        return totals
