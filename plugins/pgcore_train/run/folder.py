"""A run's folder: its configuration, metrics, checkpoint and picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from pgcore.data import files
from pgcore.errors import FileError

__all__ = ["RunFolder"]

# First line of `run.toml`: the proof that a folder is a run's and its files may be replaced.
MARK = "# Written by pgcore train."


class RunFolder:
    """The folder of a run's results.

    Attributes:
        config: `run.toml`; `pgcore train --config` repeats the run with it.
        metrics: `metrics.jsonl`, one JSON object a line for each update.
        checkpoint: `checkpoint.safetensors`; `pgcore train --resume` continues from it.
        policy: `policy.safetensors`; `pgcore.load` reads it.
        picture: `learning_curve.png`.
        summary: `summary.json`.
    """

    def __init__(self, path: str | Path) -> None:
        """Name the files; nothing is touched before `open`."""
        self.path = Path(path)
        self.config = self.path / "run.toml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoint = self.path / "checkpoint.safetensors"
        self.policy = self.path / "policy.safetensors"
        self.picture = self.path / "learning_curve.png"
        self.summary = self.path / "summary.json"
        self._handle: TextIO | None = None

    def open(self, config: str, *, keep: bool) -> RunFolder:
        """Make the folder, prove that it can be written to, and start the metrics.

        Args:
            config: The configuration as TOML.
            keep: Whether to add to the metrics, as a resumed run does, or to remove an earlier
                run's results.

        Raises:
            FileError: the folder cannot be made or written to, or holds another program's files of
                these names.
        """
        try:
            self._check_ours()
            self.path.mkdir(parents=True, exist_ok=True)
            # The first file to write, so that a read-only folder fails before training.
            files.replace(self.config, f"{MARK}\n\n{config}".encode())
            if not keep:
                for file in self._results:
                    file.unlink(missing_ok=True)
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

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add a line, which is in the file when this returns; NaN and infinity become null."""
        assert self._handle is not None
        # JSON has no such numbers, and other readers refuse Python's spelling of them.
        line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._handle.write(json.dumps(line) + "\n")
        self._handle.flush()

    @property
    def _results(self) -> tuple[Path, ...]:
        return self.metrics, self.checkpoint, self.policy, self.picture, self.summary

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
