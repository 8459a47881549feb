"""Running normalisation of observations and rewards."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from gymnasium.wrappers.utils import RunningMeanStd

from pgcore.validation.arrays import Array

__all__ = ["EPS", "Normaliser", "ObservationNormaliser", "RewardNormaliser"]

# Bound of normalised values, in standard deviations, as in OpenAI Baselines and its successors.
LIMIT = 10.0
# Added to a variance, in squared input units, so that a constant input divides by no zero.
EPS = 1e-8


class Normaliser:
    """Running mean and biased variance of [n, K] rows, which a checkpoint can hold.

    Attributes:
        moments: Gymnasium's, [K] float64. Mean 0 and variance 1 before the first row.
    """

    def __init__(self, width: int) -> None:
        """Start without rows, `width` columns wide."""
        # Gymnasium counts 1e-4 of a row beforehand, which would leave its mark on small variances.
        self.moments = RunningMeanStd(epsilon=0, shape=(width,))

    def take(self, rows: Array) -> None:
        """Take in [n, K] numbers, n at least 1."""
        # Gymnasium would average float32 rows in float32.
        self.moments.update(rows.astype(np.float64, copy=False))

    def state(self) -> dict[str, Array]:
        """Return the arrays that `load` takes, copies of the current ones."""
        moments = self.moments
        return {
            "count": np.array([moments.count]),
            "mean": moments.mean.copy(),
            # The file's format asks for the sum of squares; the variance makes the way back exact.
            "squares": moments.var * moments.count,
            "variance": moments.var.copy(),
        }

    def load(self, state: Mapping[str, Array]) -> None:
        """Continue from a state that `state` returned; `variance` may be missing."""
        count = int(state["count"][0])
        variance = state["variance"] if "variance" in state else state["squares"] / max(count, 1)
        self.moments.count, self.moments.mean = count, state["mean"].copy()
        # Without rows the sum of squares is 0, and the variance still 1.
        self.moments.var = variance.copy() if count else np.ones_like(variance)


class ObservationNormaliser(Normaliser):
    """Gives observations mean 0 and standard deviation 1, by the steps before the current rollout.

    The statistics stand still during a rollout, so that all its steps are normalised alike.
    """

    def __init__(self, width: int) -> None:
        """Start without rows: the first rollout's observations stay as they are."""
        super().__init__(width)
        self._settle()

    def __call__(self, observations: Array) -> Array:
        """Return [N, O] float64 normalised observations, clipped to +-10 where they are finite."""
        normal = np.clip((observations - self._mean) * self._scale, -LIMIT, LIMIT)
        # An infinite observation is an error to be told, not one of 10.
        np.copyto(normal, observations, where=~np.isfinite(observations))
        return normal

    def update(self, observations: Array) -> None:
        """Take in the [B, O] raw observations of a rollout; none of it unless all are finite."""
        # A number that is not finite would stay in the running statistics for good.
        if np.isfinite(observations).all():
            self.take(observations)
            self._settle()

    def load(self, state: Mapping[str, Array]) -> None:
        """See `Normaliser.load`."""
        super().load(state)
        self._settle()

    def _settle(self) -> None:
        self._mean = self.moments.mean
        self._scale = 1.0 / np.sqrt(self.moments.var + EPS)


class RewardNormaliser(Normaliser):
    """Divides rewards by the running standard deviation of the discounted sum of past rewards.

    The mean is left alone. A rollout's rewards are taken in first, then all divided by one number.
    """

    def __init__(self, envs: int, gamma: float) -> None:
        """Start without rewards.

        Args:
            envs: N.
            gamma: Discount in [0, 1].
        """
        super().__init__(1)
        self._gamma = gamma
        self._sums = np.zeros(envs)

    def __call__(self, rewards: Array, ended: Array) -> Array:
        """Return [N, T] rewards of one rollout, scaled and clipped to +-10.

        Args:
            rewards: [N, T] float64, in the order of time, following the last call's.
            ended: [N, T] bool. Whether an episode ended at the step.
        """
        sums = np.empty_like(rewards)
        for t in range(rewards.shape[1]):
            self._sums = self._gamma * self._sums + rewards[:, t]
            sums[:, t] = self._sums
            # The sum includes the last step's reward before the next episode starts from 0.
            self._sums[ended[:, t]] = 0.0
        self.take(sums.reshape(-1, 1))
        return np.clip(rewards / np.sqrt(self.moments.var[0] + EPS), -LIMIT, LIMIT)

    def state(self) -> dict[str, Array]:
        """See `Normaliser.state`."""
        return super().state() | {"sums": self._sums.copy()}

    def load(self, state: Mapping[str, Array]) -> None:
        """See `Normaliser.load`; the sums of another number of environments start from 0."""
        super().load(state)
        sums = state.get("sums", self._sums)
        self._sums = sums.copy() if sums.shape == self._sums.shape else np.zeros_like(self._sums)

    def restart(self, which: Array | slice = slice(None)) -> None:
        """Forget the sums of episodes that were broken off, by a mask of [N] or all."""
        self._sums[which] = 0.0
