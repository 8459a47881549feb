"""A run's folder: its configuration, metrics, checkpoint and picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from pgcore.data import files
from pgcore.errors import FileError
from pgcore_train.divergence.evidence import FILES
from pgcore_train.run.checkpoint import Checkpoint, checkpoint_files

__all__ = ["RunFolder"]

# First line of `run.toml`: the proof that a folder is a run's and its files may be replaced.
MARK = "# Written by pgcore train."


class RunFolder:
    """The folder of a run's results.

    Attributes:
        config: `run.toml`; `pgcore train --config` repeats the run with it.
        metrics: `metrics.jsonl`, one JSON object a line for each update.
        checkpoint: `checkpoint.safetensors`; `pgcore train --resume` continues from it.
        earlier: The checkpoints before it, the latest first: `checkpoint-1.safetensors` and so on.
        policy: `policy.safetensors`; `pgcore.load` reads it.
        picture: `learning_curve.png`.
        summary: `summary.json`.
    """

    def __init__(self, path: str | Path) -> None:
        """Name the files; nothing is touched before `open`."""
        self.path = Path(path)
        self.config = self.path / "run.toml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoint, *self.earlier = checkpoint_files(self.path)
        self.policy = self.path / "policy.safetensors"
        self.picture = self.path / "learning_curve.png"
        self.summary = self.path / "summary.json"
        self._handle: TextIO | None = None

    def open(self, config: str, *, updates: int | None) -> RunFolder:
        """Make the folder, prove that it can be written to, and start the metrics.

        Args:
            config: The configuration as TOML.
            updates: Those of the run that this one goes on with: later metrics are removed.
                None removes an earlier run's results.

        Raises:
            FileError: the folder cannot be made or written to, or holds another program's files of
                these names.
        """
        try:
            self._check_ours()
            self.path.mkdir(parents=True, exist_ok=True)
            # The first file to write, so that a read-only folder fails before training.
            files.replace(self.config, f"{MARK}\n\n{config}".encode())
            if updates is None:
                for file in self._results:
                    file.unlink(missing_ok=True)
            else:
                self._cut(updates)
            self._handle = self.metrics.open("a", encoding="utf-8")
        except FileError:
            raise
        except OSError as error:
            raise FileError(
                f"{self.path}: expected a folder to write to, got {error.strerror}; "
                "choose one you can write to"
            ) from error
        return self

    def __enter__(self) -> Self:
        """See `open`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the metrics."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and keep the last ones.

        Raises:
            FileError: it cannot be written; the last one stays the latest.
        """
        new = self.path / f".{self.checkpoint.name}.new"
        checkpoint.save(new)
        ages = [self.checkpoint, *self.earlier]
        try:
            # A run that is killed here has the checkpoint before this one.
            for younger, older in reversed([*pairwise(ages)]):
                if younger.exists():
                    younger.replace(older)
            new.replace(self.checkpoint)
        except OSError as error:
            raise FileError(
                f"{self.path}: expected a folder to write to, got {error.strerror}; "
                "choose one you can write to"
            ) from error

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add a line, which is in the file when this returns; NaN and infinity become null."""
        assert self._handle is not None
        # JSON has no such numbers, and other readers refuse Python's spelling of them.
        line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._handle.write(json.dumps(line) + "\n")
        self._handle.flush()

    def _cut(self, updates: int) -> None:
        """Leave the metrics of so many updates; a killed run may have written more, the last in part."""
        if not self.metrics.exists():
            return
        lines = self.metrics.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and update_of(line) <= updates]
        if len(kept) < len(lines):
            files.replace(self.metrics, b"".join(kept))

    @property
    def _results(self) -> tuple[Path, ...]:
        checkpoints, diverged = (self.checkpoint, *self.earlier), [self.path / x for x in FILES]
        return self.metrics, *checkpoints, self.policy, self.picture, self.summary, *diverged

    def _check_ours(self) -> None:
        """Raise FileError if a file to be replaced is not a pgcore run's."""
        present = [file.name for file in (self.config, *self._results) if file.exists()]
        if not present:
            return
        if not self.config.is_file() or not self.config.read_bytes().startswith(MARK.encode()):
            raise FileError(
                f"{self.path}: expected a new folder or one of a pgcore run, "
                f"got another program's {present[0]}; choose another"
            )


def update_of(line: bytes) -> float:
    """Return the update of a line of metrics; infinity for a line that is none."""
    try:
        return float(json.loads(line)["update"])
    except (ValueError, TypeError, KeyError):
        return math.inf
