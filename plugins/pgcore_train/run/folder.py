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

MARK = "# Written by pgcore train."


class RunFolder:
    """Where a run's results go.

    Attributes:
        config: `run.toml`; `pgcore train --config` repeats the run with it.
        metrics: `metrics.jsonl`, one JSON object a line for each update.
        checkpoint: `checkpoint.safetensors`, what `pgcore train --resume` goes on from.
        policy: `policy.safetensors`, what `pgcore.load` takes.
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
            keep: Go on with the metrics that are there, as a resumed run does; else an earlier run's results are removed.

        Raises:
            FileError: the folder cannot be made or written to, or holds files of these names that are not a pgcore run's.
        """
        try:
            self._check_ours()
            self.path.mkdir(parents=True, exist_ok=True)
            files.replace(self.config, f"{MARK}\n\n{config}".encode())
            if not keep:
                for file in self._results:
                    file.unlink(missing_ok=True)
            self._handle = self.metrics.open("a", encoding="utf-8")
        except FileError:
            raise
        except OSError as error:
            raise FileError(
                f"{self.path}: expected a folder to write to, got {error.strerror}; choose one you can write to"
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
        """Add a line, which is in the file when this returns; JSON has no NaN or infinity, so these become null."""
        assert self._handle is not None
        line = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._handle.write(json.dumps(line) + "\n")
        self._handle.flush()

    @property
    def _results(self) -> tuple[Path, ...]:
        return self.metrics, self.checkpoint, self.policy, self.picture, self.summary

    def _check_ours(self) -> None:
        """Raise FileError where a file that is to be replaced is not a pgcore run's."""
        found = [file.name for file in (self.config, *self._results) if file.exists()]
        if not found:
            return
        if not self.config.is_file() or not self.config.read_bytes().startswith(MARK.encode()):
            raise FileError(
                f"{self.path}: expected a new folder or one of a pgcore run, got another program's {found[0]}; choose another"
            )
