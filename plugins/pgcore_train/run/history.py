"""What a run has been through so far: counters and finished episodes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pgcore.validation.arrays import Array
from pgcore_train.rollout.rollouts import Rollout

__all__ = ["WINDOW", "History", "readable", "window_means"]

# Episodes that a mean return is over.
WINDOW = 20


@dataclass(slots=True)
class History:
    """Counters and finished episodes of a run, resumed ones included.

    Attributes:
        updates: Updates made.
        steps: Environment steps taken, all environments together.
        seconds: Wall-clock time spent.
        returns: Undiscounted return of every finished episode, in the order of time, environment units.
        finished_at: `steps` when each of them had finished.
    """

    updates: int = 0
    steps: int = 0
    seconds: float = 0.0
    returns: list[float] = field(default_factory=list)
    finished_at: list[int] = field(default_factory=list)

    def add(self, rollout: Rollout) -> None:
        """Take in a rollout."""
        self.returns += rollout.returns.tolist()
        self.finished_at += (self.steps + rollout.finished_at).tolist()
        self.steps += rollout.steps

    @property
    def episodes(self) -> int:
        """How many episodes finished."""
        return len(self.returns)

    @property
    def mean_return(self) -> float | None:
        """Mean return of the last 20 finished episodes, or of all where fewer finished; None before the first."""
        return float(np.mean(self.returns[-WINDOW:])) if self.returns else None

    def reached(self, goal: float | None) -> bool:
        """Return whether there is a goal and the mean return of the last 20 episodes, no fewer, is at least that."""
        mean = self.mean_return
        return (
            goal is not None and mean is not None and len(self.returns) >= WINDOW and mean >= goal
        )


def readable(value: float) -> str:
    """Return a return as people like to read it: a few digits that matter."""
    return f"{value:,.1f}" if abs(value) >= 100 else f"{value:.3g}"


def window_means(returns: Array) -> Array:
    """Return [F - 19] means of each 20 successive ones of [F] returns, or of all where there are fewer."""
    width = min(WINDOW, len(returns))
    sums = np.concatenate([[0.0], np.cumsum(returns)])
    return (sums[width:] - sums[:-width]) / width
