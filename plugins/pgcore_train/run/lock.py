"""The lock of a run's folder, which one process alone writes to."""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout

from pgcore.errors import FileError
from pgcore_train.run.metrics import same_file

__all__ = ["FolderLock", "in_use"]


class FolderLock:
    """A lock on the file `.lock` of a folder; the system gives it up when the process ends."""

    def __init__(self, folder: Path) -> None:
        """Touch nothing yet."""
        self._folder, self._file = folder, folder / ".lock"
        self._lock: FileLock | None = None
        self._locked: os.stat_result | None = None

    @property
    def lost(self) -> bool:
        """Whether it was asked for, and the folder has no lock file or another one by now."""
        return self._lock is not None and not same_file(self._file, self._locked)

    def acquire(self) -> None:
        """Make the folder, and lock it.

        Raises:
            FileError: another run holds it.
            OSError: it cannot be made or locked.
        """
        self.release()
        self._folder.mkdir(parents=True, exist_ok=True)
        # Kept also where another run holds the folder, so that `lost` says so.
        self._lock = FileLock(self._file, timeout=0)
        try:
            self._lock.acquire()
        except Timeout as error:
            raise in_use(self._folder) from error
        self._locked = self._file.stat()

    def release(self) -> None:
        """Give it up."""
        if self._lock is not None:
            self._lock.release()
        self._locked = None


def in_use(folder: Path) -> FileError:
    """Return the error of a folder that another run writes to."""
    return FileError(
        f"{folder}: expected a folder that no other run writes to, got one in use; "
        "choose another, or wait for that run's end"
    )
