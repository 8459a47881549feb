"""The metrics of a run: a file with one JSON object a line for each update."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path

from pgcore.data import files

__all__ = ["MetricsFile", "cut", "same_file"]


class MetricsFile:
    """A file of metrics that has whole lines alone, also where a disk is full."""

    def __init__(self, path: Path) -> None:
        """Open the file to add to it.

        Raises:
            OSError: it cannot be opened.
        """
        self._path = path
        # Without a buffer, so that a line is in the file when `write` returns.
        self._file = path.open("ab", buffering=0)
        self._waiting: list[bytes] = []

    def write(self, metrics: Mapping[str, float]) -> None:
        """Add a line, which is in the file when this returns; NaN and infinity become null.

        Raises:
            OSError: it cannot be written. It waits for the next call.
        """
        # JSON has no such numbers, and other readers refuse Python's spelling of them.
        line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._waiting.append(json.dumps(line).encode() + b"\n")
        self._write_waiting()

    def sync(self) -> None:
        """Put all lines on the disk itself.

        Raises:
            OSError: they cannot be written.
        """
        if self._waiting:
            self._write_waiting()
        os.fsync(self._file.fileno())

    def _write_waiting(self) -> None:
        content, end = b"".join(self._waiting), os.fstat(self._file.fileno()).st_size
        if self._file.write(content) != len(content):
            self._file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._waiting.clear()

    @property
    def in_place(self) -> bool:
        """Whether the file is still where it was opened."""
        return same_file(self._path, os.fstat(self._file.fileno()))

    def reopen(self) -> None:
        """Open the file again, which somebody has deleted.

        Raises:
            OSError: it cannot be opened.
        """
        self._file.close()
        self._file = self._path.open("ab", buffering=0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def same_file(path: Path, opened: os.stat_result | None) -> bool:
    """Return whether a path leads to the file that was opened, and not to a later one of its name."""
    try:
        return opened is not None and os.path.samestat(path.stat(), opened)
    except FileNotFoundError:
        return False


def cut(path: Path, updates: int) -> None:
    """Leave the metrics of so many updates; a killed run may have written more, the last in part.

    Those that are missing, as after a failure of the machine, are told on stderr.

    Raises:
        FileError: the file cannot be written.
    """
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    kept = [line for line in lines if line.endswith(b"\n") and update_of(line) <= updates]
    if len(kept) < len(lines):
        files.replace(path, b"".join(kept))
    if absent := gaps({int(update_of(line)) for line in kept}, updates):
        sys.stderr.write(f"{path}: lacks the metrics of updates {absent}; going on without them\n")


def gaps(present: Iterable[int], updates: int) -> str:
    """Return the updates that are missing between the first present one and the last, such as 3-5, 9.

    A run that went on in a folder of its own has none of the updates before.
    """
    ends = [*sorted(present), updates + 1]
    if len(ends) == 1:
        ends.insert(0, 0)
    holes = ((left + 1, right - 1) for left, right in pairwise(ends) if right - left > 1)
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in holes)


def update_of(line: bytes) -> float:
    """Return the update of a line of metrics; infinity for a line that is none."""
    try:
        return float(json.loads(line)["update"])
    except (ValueError, TypeError, KeyError):
        return math.inf
