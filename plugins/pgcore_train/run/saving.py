"""What a run writes on its way: metrics, and checkpoints now and then."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping

from pgcore.errors import FileError
from pgcore_train.run.folder import RunFolder
from pgcore_train.training import Training

__all__ = ["Saver"]

# A checkpoint waits until training took so many times as long as the last one: at most 2 % of a run.
SHARE = 50


class Saver:
    """Writes a run's metrics at each update, and its checkpoint every so many minutes or updates.

    Attributes:
        update: The update of the last checkpoint of this run; None before the first.
    """

    def __init__(self, training: Training, folder: RunFolder) -> None:
        """Start the clock."""
        self._training, self._folder = training, folder
        self._saved_at, self._took = time.perf_counter(), 0.0
        self._failing: set[str] = set()
        self.update: int | None = None

    def after_update(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics, and a checkpoint if it is time.

        Raises:
            FileError: the disk takes nothing, and the run is to stop then. Otherwise it is told, and
                training goes on.
        """
        self._try("metrics", lambda: self._folder.write_metrics(metrics))
        run, updates = self._training.config.run, self._training.history.updates
        waited = time.perf_counter() - self._saved_at
        due = bool(run.checkpoint_updates) and updates % run.checkpoint_updates == 0
        if run.checkpoint_minutes and waited >= max(
            60.0 * run.checkpoint_minutes, SHARE * self._took
        ):
            due = True
        if not due:
            return
        started = time.perf_counter()
        if self._try("checkpoint", lambda: self._folder.save(self._training.checkpoint())):
            self.update = updates
        self._saved_at = time.perf_counter()
        self._took = self._saved_at - started

    def _try(self, what: str, write: Callable[[], None]) -> bool:
        """Return whether something could be written; tell the first failure of several in a row."""
        try:
            write()
        except FileError as error:
            if self._training.config.run.unwritable == "stop":
                raise
            if what not in self._failing:
                update = self._training.history.updates
                sys.stderr.write(f"no {what} after update {update}, training goes on: {error}\n")
            self._failing.add(what)
            return False
        self._failing.discard(what)
        return True
