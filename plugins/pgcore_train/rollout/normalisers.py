"""Running normalisation of observations and rewards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pgcore.validation.arrays import Array

__all__ = ["ObservationNormaliser", "RewardNormaliser", "RunningMoments"]

# Normalised values are clipped to this, as Baselines and its successors do.
LIMIT = 10.0
EPS = 1e-8


class RunningMoments:
    """Mean and variance of everything seen so far, merged a batch at a time.

    Attributes:
        count: Rows seen.
        mean: [K] float64, 0 before the first row.
        squares: [K] float64. Sum of squared deviations from the mean.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample variances".
    """

    def __init__(self, width: int) -> None:
        """Start from nothing seen."""
        self.count = 0
        self.mean = np.zeros(width)
        self.squares = np.zeros(width)

    @property
    def variance(self) -> Array:
        """[K] float64. Biased variance; 1 before the first row, so that dividing by its root changes nothing."""
        return self.squares / self.count if self.count else np.ones_like(self.squares)

    def update(self, rows: Array) -> None:
        """Take in [n, K] numbers, n at least 1."""
        count, mean = len(rows), rows.mean(axis=0, dtype=np.float64)
        total = self.count + count
        difference = mean - self.mean
        self.squares += ((rows - mean) ** 2).sum(axis=0) + difference * difference * (
            self.count * count / total
        )
        self.mean += difference * (count / total)
        self.count = total

    def state(self) -> dict[str, Array]:
        """Return the arrays that `load` takes."""
        return {"count": np.array([self.count]), "mean": self.mean, "squares": self.squares}

    def load(self, state: Mapping[str, Array]) -> None:
        """Go on from what `state` returned."""
        self.count, self.mean, self.squares = (
            int(state["count"][0]),
            state["mean"].copy(),
            state["squares"].copy(),
        )


class ObservationNormaliser:
    """Gives observations a mean of 0 and a standard deviation of 1, by what was seen before the current rollout.

    The statistics stand still during a rollout, so that all its steps see the same observations in the same way.
    """

    def __init__(self, width: int) -> None:
        """Start from nothing seen: the first rollout's observations stay as they are."""
        self.moments = RunningMoments(width)
        self._settle()

    def __call__(self, observations: Array) -> Array:
        """Return [N, O] float64 normalised observations, clipped to +-10."""
        return np.clip((observations - self._mean) * self._scale, -LIMIT, LIMIT)

    def update(self, observations: Array) -> None:
        """Take in the [B, O] raw observations of a rollout."""
        self.moments.update(observations)
        self._settle()

    def load(self, state: Mapping[str, Array]) -> None:
        """See `RunningMoments.load`."""
        self.moments.load(state)
        self._settle()

    def _settle(self) -> None:
        self._mean = self.moments.mean.copy()
        self._scale = 1.0 / np.sqrt(self.moments.variance + EPS)


class RewardNormaliser:
    """Divides rewards by the running standard deviation of the discounted sum of past rewards; the mean is left alone.

    A rollout's rewards are taken in first and then all divided by one number.
    """

    def __init__(self, envs: int, gamma: float) -> None:
        """Start from nothing seen.

        Args:
            envs: N.
            gamma: Discount in [0, 1].
        """
        self.moments = RunningMoments(1)
        self._gamma = gamma
        self._sums = np.zeros(envs)

    def __call__(self, rewards: Array, ended: Array) -> Array:
        """Return [N, T] rewards of one rollout, scaled and clipped to +-10.

        Args:
            rewards: [N, T] float64, in the order of time, going on where the last call ended.
            ended: [N, T] bool. Whether an episode ended at the step.
        """
        sums = np.empty_like(rewards)
        for t in range(rewards.shape[1]):
            self._sums = self._gamma * self._sums + rewards[:, t]
            sums[:, t] = self._sums
            self._sums[ended[:, t]] = 0.0
        self.moments.update(sums.reshape(-1, 1))
        return np.clip(rewards / np.sqrt(self.moments.variance[0] + EPS), -LIMIT, LIMIT)

    def load(self, state: Mapping[str, Array]) -> None:
        """See `RunningMoments.load`."""
        self.moments.load(state)

    def restart(self) -> None:
        """Forget the sums of episodes that were broken off."""
        self._sums[:] = 0.0
