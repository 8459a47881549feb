"""The results of a run: its files, and a short summary."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from pgcore.data import files
from pgcore.errors import FileError
from pgcore.validation.arrays import Array
from pgcore.wording import abbreviated
from pgcore_train.rollout.normalisers import EPS, ObservationNormaliser
from pgcore_train.run.folder import RunFolder
from pgcore_train.run.history import WINDOW, History, readable
from pgcore_train.run.picture import draw
from pgcore_train.training import Ending, Training

__all__ = ["Results", "figures_of"]


class Results:
    """The results of a run that has ended, as files and as a short text.

    Attributes:
        evaluation: [E] returns of the evaluation episodes, environment units; empty for none.
    """

    def __init__(self, training: Training, folder: RunFolder) -> None:
        """Write nothing yet."""
        self._training, self._folder = training, folder
        self._no_picture: str | None = None
        self._problem: FileError | None = None
        self.evaluation = np.empty(0)

    def write(self) -> None:
        """Write checkpoint, policy and picture, as far as the disk takes them."""
        for write in (self._write_checkpoint, self._write_policy, self._write_picture):
            self._try(write)

    def summarise(self, ending: Ending) -> str:
        """Write `summary.json` and return the summary as text, some lines of two columns."""
        figures = figures_of(self._training, ending, self.evaluation)
        content = (json.dumps(figures, indent=2) + "\n").encode()
        self._try(lambda: files.replace(self._folder.summary, content))
        # For people: empty rows are left out.
        history, run, folder = self._training.history, self._training.config.run, self._folder
        checkpoint = folder.checkpoint
        rows = {
            "training": ending_text(ending, history, run.stop_at),
            "effort": effort_text(history),
            "divergence": divergence_text(self._training),
            "evaluation": evaluation_text(self.evaluation),
            "metrics": str(folder.metrics),
            "checkpoint": str(checkpoint) if checkpoint.exists() else "none",
            "picture": self._no_picture or str(folder.picture),
        }
        return "".join(f"{name:<12}{text}\n" for name, text in rows.items() if text)

    def raise_problem(self) -> None:
        """Raise the first error of writing.

        Raises:
            FileError: a file could not be written.
        """
        if self._problem is not None:
            raise self._problem

    def _write_checkpoint(self) -> None:
        # Where a second signal broke off an update, parameters are of two: the last one stays.
        if not self._training.torn:
            self._folder.save(self._training.checkpoint())

    def _write_policy(self) -> None:
        self._training.policy.save(self._folder.policy)

    def _write_picture(self) -> None:
        run, config = self._training.config.run, self._training.config
        environment, estimator = config.environment["name"], config.estimator["name"]
        title = f"{environment}: {estimator} on {run.backend}, seed {run.seed}"
        # The picture is an extra: without it a run is complete all the same.
        try:
            picture = draw(self._training.history, title, run.stop_at)
        except Exception as error:  # noqa: BLE001 - matplotlib's settings and numbers raise many
            if lacks_matplotlib(error):
                self._no_picture = "none, matplotlib is not installed: pip install 'pgcore[plot]'"
                return
            reason = abbreviated(" ".join(f"{type(error).__name__}: {error}".split()))
            sys.stderr.write(f"no picture: {reason}\n")
            self._no_picture = f"none, {reason}"
        else:
            files.replace(self._folder.picture, picture)

    def _try(self, write: Callable[[], object]) -> None:
        """Write, and keep the first error for `raise_problem`."""
        try:
            self._folder.remake()
            write()
        except FileError as error:
            self._problem = self._problem or error


def lacks_matplotlib(error: Exception) -> bool:
    """Return whether an import failed since matplotlib is not installed."""
    name = error.name if isinstance(error, ModuleNotFoundError) else None
    return name is not None and name.partition(".")[0] == "matplotlib"


def figures_of(training: Training, ending: Ending, evaluation: Array) -> dict[str, Any]:
    """Return the summary for programs: every figure at full precision, None for a mean of nothing.

    Args:
        training: The run.
        ending: Why it stopped.
        evaluation: Returns of the evaluation episodes, environment units.
    """
    history = training.history
    return {
        "ending": ending.value,
        "updates": history.updates,
        "steps": history.steps,
        "episodes": history.episodes,
        "mean_return": finite_or_none(history.mean_return),
        "seconds": round(history.seconds, 3),
        "evaluation_returns": [*map(finite_or_none, evaluation.tolist())],
        "evaluation_mean_return": finite_or_none(evaluation.mean()) if len(evaluation) else None,
        **statistics_of(training.observations),
    }


def statistics_of(observations: ObservationNormaliser | None) -> dict[str, list[float | None]]:
    """Return mean and deviation of normalised observations by name; nothing without."""
    if observations is None:
        return {}
    moments = observations.moments
    return {
        "observation_mean": [*map(finite_or_none, moments.mean.tolist())],
        "observation_deviation": [*map(finite_or_none, np.sqrt(moments.var + EPS).tolist())],
    }


def finite_or_none(value: float | None) -> float | None:
    """Return a number that JSON has, or None for NaN, infinity and None."""
    return float(value) if value is not None and math.isfinite(value) else None


def ending_text(ending: Ending, history: History, goal: float | None) -> str:
    """Return why training stopped, and its last mean return."""
    if history.mean_return is None:
        mean = "no episode finished"
    else:
        window = min(WINDOW, history.episodes)
        mean = f"mean return of the last {window} episodes {readable(history.mean_return)}"
    if ending is Ending.INTERRUPT:
        return f"interrupted; {mean}"
    if goal is None:
        return mean
    return f"{mean}, goal {goal:g} {'reached' if ending is Ending.GOAL else 'not reached'}"


def effort_text(history: History) -> str:
    """Return steps, episodes, updates and speed."""
    rate = history.steps / history.seconds if history.seconds else 0.0
    return (
        f"{history.steps:,} steps, {history.episodes:,} episodes, {history.updates:,} updates "
        f"in {history.seconds:.1f} s ({rate:,.0f} steps/s)"
    )


def divergence_text(training: Training) -> str:
    """Return the numbers of steps that the guard left out or made smaller; empty for none."""
    history = training.history
    if not history.skipped and not history.shrunk:
        return ""
    return f"{history.skipped:,} optimizer steps left out, {history.shrunk:,} made smaller"


def evaluation_text(returns: Array) -> str:
    """Return mean and range of [E] returns of evaluation episodes; empty for none."""
    if not len(returns):
        return ""
    span = f"from {readable(returns.min())} to {readable(returns.max())}"
    mean = f"mean return {readable(returns.mean())}"
    return f"{len(returns)} episodes of most probable actions: {mean}, {span}"
