"""Checkpoints of a run on its way."""

from __future__ import annotations

import sys
import time

from pgcore.errors import FileError
from pgcore_train.run.folder import RunFolder
from pgcore_train.training import Training

__all__ = ["Saver"]

# A checkpoint waits until training took so many times as long as the last one: at most 2 % of a run.
SHARE = 50


class Saver:
    """Writes a run's checkpoint every so many minutes or updates.

    Attributes:
        update: The update of the last checkpoint of this run; None before the first.
    """

    def __init__(self, training: Training, folder: RunFolder) -> None:
        """Start the clock."""
        self._training, self._folder = training, folder
        self._saved_at, self._took = time.perf_counter(), 0.0
        self.update: int | None = None

    def after_update(self) -> None:
        """Write a checkpoint if it is time; a disk that takes none is told, and training goes on."""
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
        try:
            self._folder.save(self._training.checkpoint())
            self.update = updates
        except FileError as error:
            sys.stderr.write(f"no checkpoint after update {updates}: {error}\n")
        self._saved_at = time.perf_counter()
        self._took = self._saved_at - started
