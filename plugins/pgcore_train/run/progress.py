"""The live progress bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Self

from pgcore_train.run.history import readable

__all__ = ["ProgressBar"]

# Seconds between two drawings, our choice: one takes milliseconds, and no eye follows faster.
SECONDS_BETWEEN = 0.1


class ProgressBar:
    """Steps, mean return and steps per second on stderr; nothing unless that is a terminal."""

    def __init__(self, total: int, done: int) -> None:
        """Prepare a bar of `total` environment steps, `done` of them by an earlier run."""
        self._total, self._done = total, done
        self._bar: Any = None
        self._task: Any = None
        self._drawn = -float("inf")
        self._started = time.perf_counter()

    def __enter__(self) -> Self:
        """Show the bar."""
        if not sys.stderr.isatty():
            return self
        # Not at the top: most runs in scripts have no terminal.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f} steps"),
            TextColumn("{task.fields[figures]}"),
            console=Console(stderr=True),
            # On this thread: one of its own would take the processor from training.
            auto_refresh=False,
        )
        self._bar.start()
        self._task = self._bar.add_task(
            "training", total=self._total, completed=self._done, figures=""
        )
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Draw the bar as it stands and leave it there."""
        if self._bar is not None:
            self._bar.refresh()
            self._bar.stop()

    def update(
        self,
        steps: int,
        mean_return: float | None,
        metrics: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        """Move the bar; it is drawn at most ten times a second.

        Args:
            steps: Environment steps so far.
            mean_return: Environment units, or None.
            metrics: Of the update; steps that were left out or made smaller are shown, and those of an
                optimizer's `StepReport`.
        """
        if self._bar is None:
            return
        now = time.perf_counter()
        rate = (steps - self._done) / max(now - self._started, 1e-9)
        mean = "no episode finished"
        if mean_return is not None:
            mean = f"mean return {readable(mean_return)}"
        self._bar.update(
            self._task,
            completed=min(steps, self._total),
            figures=f"{mean}  {rate:,.0f} steps/s{guard_text(metrics)}{step_text(metrics)}",
        )
        if now - self._drawn >= SECONDS_BETWEEN:
            self._bar.refresh()
            self._drawn = now


def guard_text(metrics: Mapping[str, float]) -> str:
    """Return a text of the steps that the guard left out or made smaller; empty for none."""
    counts = {name: metrics.get(name, 0) for name in ("skipped", "shrunk")}
    return "".join(f"  {count:.0f} {name}" for name, count in counts.items() if count)


def step_text(metrics: Mapping[str, float]) -> str:
    """Return a text of the last step's `StepReport` among metrics; empty without one."""
    if "step_kl" not in metrics:
        return ""
    if not metrics["step_accepted"]:
        return "  step refused"
    return (
        f"  KL {metrics['step_kl']:.2g}, step {metrics['step_size']:.2g}, "
        f"CG {metrics['cg_iterations']:.0f}, line search {metrics['line_search_steps']:.0f}"
    )
