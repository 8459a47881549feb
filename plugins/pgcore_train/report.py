"""The results of a run: its files, and a short summary."""

from __future__ import annotations

import json
import math
from typing import Any

from pgcore.data import files
from pgcore.validation.arrays import Array
from pgcore_train.run.folder import RunFolder
from pgcore_train.run.history import WINDOW, History, readable
from pgcore_train.run.picture import draw
from pgcore_train.training import Ending, Training

__all__ = ["figures_of", "summarise", "write_results"]


def write_results(training: Training, folder: RunFolder) -> str | None:
    """Write checkpoint, policy and picture; return why there is no picture, or None.

    Raises:
        FileError: a file cannot be written.
    """
    folder.save(training.checkpoint())
    training.policy.save(folder.policy)
    run = training.config.run
    environment, estimator = training.config.environment["name"], training.config.estimator["name"]
    title = f"{environment}: {estimator} on {run.backend}, seed {run.seed}"
    # The picture is an extra: without matplotlib a run is complete all the same.
    try:
        picture = draw(training.history, title, run.stop_at)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        return "none, matplotlib is not installed: pip install 'pgcore[plot]'"
    files.replace(folder.picture, picture)
    return None


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
    }


def finite_or_none(value: float | None) -> float | None:
    """Return a number that JSON has, or None for NaN, infinity and None."""
    return float(value) if value is not None and math.isfinite(value) else None


def summarise(
    training: Training, folder: RunFolder, ending: Ending, evaluation: Array, no_picture: str | None
) -> str:
    """Write `summary.json` and return the summary as text, some lines of two columns.

    Args:
        training: The run.
        folder: Of its results.
        ending: Why it stopped.
        evaluation: Returns of the evaluation episodes, environment units.
        no_picture: Why there is no picture, or None.
    """
    figures = figures_of(training, ending, evaluation)
    files.replace(folder.summary, (json.dumps(figures, indent=2) + "\n").encode())
    # For people: empty rows are left out.
    history, run = training.history, training.config.run
    rows = {
        "training": ending_text(ending, history, run.stop_at),
        "effort": effort_text(history),
        "divergence": divergence_text(training),
        "evaluation": evaluation_text(evaluation),
        "metrics": str(folder.metrics),
        "checkpoint": str(folder.checkpoint),
        "picture": no_picture or str(folder.picture),
    }
    return "".join(f"{name:<12}{text}\n" for name, text in rows.items() if text)


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
    totals = training.guard.totals
    if not any(totals.values()):
        return ""
    return f"{totals['skipped']:,} optimizer steps left out, {totals['shrunk']:,} made smaller"


def evaluation_text(returns: Array) -> str:
    """Return mean and range of [E] returns of evaluation episodes; empty for none."""
    if not len(returns):
        return ""
    span = f"from {readable(returns.min())} to {readable(returns.max())}"
    mean = f"mean return {readable(returns.mean())}"
    return f"{len(returns)} episodes of most probable actions: {mean}, {span}"
