"""Sums over whole episodes, in plain loops and in any number system of NumPy's functions.

`B` steps in `E` episodes. Rows of padding hold finite numbers that mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pgcore.data.batch import Batch
from pgcore.validation.arrays import Array
from pgcore_check.reference.estimator_form import Lift, LiftedEvaluate, Number, where

__all__ = [
    "backwards",
    "episodes",
    "final_values",
    "gae",
    "joined",
    "n_step",
    "next_values",
    "normalised",
    "over_episodes",
    "safe_ratio",
    "state_values",
]


def episodes(batch: Batch) -> Iterator[range]:
    """Yield the step numbers of each episode."""
    for start, length in zip(
        batch.episode_starts.tolist(), batch.episode_lengths.tolist(), strict=True
    ):
        yield range(start, start + length)


def joined(rows: list[Number]) -> Number:
    """Return [n] from n single numbers."""
    return np.concatenate([row.reshape(1) for row in rows])


def safe_ratio(numerator: Number, denominator: Number) -> Number:
    """Return the quotient, 0 for a denominator of 0."""
    positive = denominator > 0
    return where(positive, numerator / where(positive, denominator, 1), 0)


def state_values(batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> Number:
    """Return [B] V(s_t), the batch's recorded values if it has them."""
    return evaluate("value") if batch.values is None else lift(batch.values)


def final_values(batch: Batch, evaluate: LiftedEvaluate, lift: Lift) -> Number:
    """Return [E] the value after each episode's last step; 0 for a terminated episode."""
    ended = batch.terminated
    if batch.final_values is not None:
        return where(ended, 0, lift(batch.final_values))
    # A batch whose episodes all terminated need not hold final observations.
    return np.zeros(len(ended)) if ended.all() else where(ended, 0, evaluate("final_value"))


def backwards(batch: Batch, last: Number, step: Callable[[int, Number], Number]) -> Number:
    """Return [B] y_t = step(t, y_{t+1}), with `last` [E] after each episode's last step."""
    rows: dict[int, Number] = {}
    for episode, steps in enumerate(episodes(batch)):
        y = last[episode]
        for t in reversed(steps):
            y = rows[t] = step(t, y)
    return joined([rows[t] for t in sorted(rows)])


def next_values(batch: Batch, values: Number, following: Number) -> Number:
    """Return [B] V(s_{t+1}) from [B] V(s_t) and the [E] values after each episode's last step."""
    rows = [values[t] for t in range(1, batch.num_steps)] + [following[-1]]
    for episode, steps in enumerate(episodes(batch)):
        rows[steps[-1]] = following[episode]
    return joined(rows)


def gae(
    batch: Batch,
    rewards: Number,
    values: Number,
    following: Number,
    gamma: float,
    gae_lambda: float,
) -> Number:
    """Return [B] sums of (gamma lambda)^k delta_{t+k} to the episode's end.

    delta_t = r_t + gamma V_{t+1} - V_t.

    Args:
        batch: The episodes.
        rewards: [B] reward units.
        values: [B] V(s_t).
        following: [E] the value after each episode's last step.
        gamma: The discount.
        gae_lambda: lambda.
    """
    delta = rewards + next_values(batch, values, following) * gamma - values
    return backwards(
        batch, np.zeros(batch.num_episodes), lambda t, later: delta[t] + later * gae_lambda * gamma
    )


def n_step(
    batch: Batch, rewards: Number, values: Number, following: Number, gamma: float, n: int
) -> Number:
    """Return [B] r_t + ... + gamma^{m-1} r_{t+m-1} + gamma^m V_{t+m}; see `gae`.

    m is the less of n and the number of steps left.
    """
    ahead = next_values(batch, values, following)
    rows: list[Number] = []
    for steps in episodes(batch):
        for t in steps:
            counted = range(t, min(t + n, steps.stop))
            total = ahead[counted[-1]]
            for k in reversed(counted):
                total = rewards[k] + total * gamma
            rows.append(total)
    return joined(rows)


def normalised(x: Number, real: Array, ddof: int) -> Number:
    """Return [B] (x - mean) / (std + 1e-8) over real steps, 0 for padding.

    Equal steps give 0; a single one stays as it is.

    Args:
        x: [B] numbers.
        real: [B] bool. Whether a step is no padding.
        ddof: Subtracted from the count in the variance.
    """
    rows, count = x[real], int(real.sum())
    if count <= 1:
        return where(real, x, 0)
    if not ((rows > rows[0]) | (rows < rows[0])).any():
        return x * 0
    mean = rows.sum() / count
    variance = ((rows - mean) * (rows - mean)).sum() / (count - ddof)
    # Not every number system has a root.
    return where(real, (x - mean) / (np.exp(np.log(variance) / 2) + 1e-8), 0)


def over_episodes(x: Number, episode: Array) -> Number:
    """Return [B] the sum of x over each step's episode; `episode` [B] numbers the episodes."""
    numbers, row = np.unique(episode, return_inverse=True)
    sums = joined([x[np.flatnonzero(episode == number)].sum() for number in numbers])
    return sums[row]
