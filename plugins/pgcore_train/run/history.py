"""The history of a run: counters and finished episodes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pgcore.validation.arrays import Array
from pgcore_train.rollout.rollouts import Rollout

__all__ = ["WINDOW", "History", "readable", "window_means"]

# Episodes in a mean return, our choice: few enough to follow learning, enough to steady it.
WINDOW = 20


@dataclass(slots=True)
class History:
    """Counters and finished episodes of a run, resumed ones included.

    Attributes:
        updates: Number of updates.
        steps: Environment steps, all environments together.
        seconds: Wall-clock time.
        returns: Undiscounted return of every finished episode in the order of time, environment
            units.
        finished_at: `steps` at the end of each of them.
        skipped: Optimizer steps left out, since they were not finite.
        shrunk: Optimizer steps made smaller for that reason.
    """

    updates: int = 0
    steps: int = 0
    seconds: float = 0.0
    returns: list[float] = field(default_factory=list)
    finished_at: list[int] = field(default_factory=list)
    skipped: int = 0
    shrunk: int = 0

    def add(self, rollout: Rollout) -> None:
        """Take in a rollout."""
        # Before `steps` grows: the rollout counts its own steps from 0.
        self.returns += rollout.returns.tolist()
        self.finished_at += (self.steps + rollout.finished_at).tolist()
        self.steps += rollout.steps

    @property
    def episodes(self) -> int:
        """Number of finished episodes."""
        return len(self.returns)

    @property
    def mean_return(self) -> float | None:
        """Mean return of the last 20 finished episodes, of all if fewer; None before the first."""
        return float(np.mean(self.returns[-WINDOW:])) if self.returns else None

    def reached(self, goal: float | None) -> bool:
        """Return whether the mean return of the last 20 episodes, no fewer, is at least a goal."""
        mean = self.mean_return
        if goal is None or mean is None or len(self.returns) < WINDOW:
            return False
        return mean >= goal


def readable(value: float) -> str:
    """Return an episode's return as text with three or four significant digits."""
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def window_means(returns: Array) -> Array:
    """Return [F - 19] means of 20 successive ones of [F] returns, or the mean of fewer."""
    width = min(WINDOW, len(returns))
    # By differences of sums: linear in F, whatever the width.
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    return (sums[width:] - sums[:-width]) / width
