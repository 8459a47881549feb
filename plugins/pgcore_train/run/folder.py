"""A run's folder: its configuration, metrics, checkpoint and picture."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Self

from pgcore.data import files
from pgcore.errors import FileError
from pgcore_train.divergence.evidence import FILES
from pgcore_train.run.checkpoint import Checkpoint, checkpoint_files, updates_of
from pgcore_train.run.lock import FolderLock, in_use
from pgcore_train.run.metrics import MetricsFile, cut

__all__ = ["RunFolder"]

# First line of `run.toml`: the proof that a folder is a run's.
MARK = "# Written by pgcore train."

RUNS = Path("runs")  # where folders without a name of the user's are
LATEST = "latest"  # the link beside a run's folder in `runs`


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
        self._text = b""
        self._lines: MetricsFile | None = None
        self._lock = FolderLock(self.path)

    @staticmethod
    def new(name: str) -> RunFolder:
        """Make the folder `runs/NAME-n` with the first number n that is free.

        Args:
            name: Of the run; characters that part a path's names become "-".

        Raises:
            FileError: the folder cannot be made.
        """
        name = name.replace("/", "-").replace(":", "-")
        for number in itertools.count(1):
            path = RUNS / f"{name}-{number}"
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                if path.exists():
                    continue
                raise unwritable(RUNS, "a file of that name") from None
            except (OSError, ValueError) as error:
                raise unwritable(path, error) from error
            return RunFolder(path)
        raise AssertionError

    @contextmanager
    def locked(self) -> Generator[Self]:
        """Hold the folder for this run; a process that ends gives it up.

        Raises:
            FileError: another run holds it, or it cannot be made.
        """
        refuse_file(self.path)
        try:
            self._lock.acquire()
        except FileError:
            raise
        except (OSError, ValueError) as error:
            raise unwritable(self.path, error) from error
        try:
            yield self
        finally:
            self._lock.release()

    def open(self, config: str, *, updates: int | None, resumed: Path | None = None) -> Self:
        """Prove that the folder can be written to, and start the metrics.

        Args:
            config: The configuration as TOML.
            updates: Those of the run that this one goes on with: later metrics are removed.
                None for a new run.
            resumed: The checkpoint in this folder that it goes on from, which becomes the latest.

        Raises:
            FileError: the folder cannot be made or written to, has another run's results, or has
                another program's files of these names.
        """
        refuse_file(self.path)
        self._check_free(new=updates is None)
        self._text = f"{MARK}\n\n{config}".encode()
        try:
            self._make()
            self._sweep()
            if updates is not None:
                # Never the metrics first: a later checkpoint would lack the lines up to it.
                if resumed is not None:
                    self._rewind(self.path / resumed.name, updates)
                cut(self.metrics, updates)
                files.sync_folder(self.path)
            self._lines = MetricsFile(self.metrics)
        except (OSError, ValueError) as error:
            raise unwritable(self.path, error) from error
        self._link()
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
        if self._lines is not None:
            self._lines.close()
            self._lines = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and keep the last ones.

        Raises:
            FileError: it cannot be written; the last one stays the latest.
        """
        self.remake()
        try:
            if self._lines is not None:
                # A machine that fails later has the metrics of all that the checkpoint has.
                self._lines.sync()
            checkpoint.save(self._new_checkpoint)
            # A run that is killed here has the checkpoint before this one.
            self._shift()
            self._new_checkpoint.replace(self.checkpoint)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def write_metrics(self, metrics: Mapping[str, float]) -> None:
        """Add a line; see `MetricsFile.write`.

        Raises:
            FileError: it cannot be written. It waits for the next call.
        """
        assert self._lines is not None
        self.remake()
        try:
            self._lines.write(metrics)
        except OSError as error:
            raise unwritable(self.metrics, error) from error

    def remake(self) -> None:
        """Make the folder again, and hold it, if somebody has deleted it.

        Raises:
            FileError: another run holds it by now or has results there, or it cannot be made.
        """
        try:
            lost = self._lock.lost
            if lost:
                self._lock.acquire()
            if self._lines is None or self._lines.in_place:
                return
            if not self.metrics.exists():
                sys.stderr.write(
                    f"{self.metrics}: deleted during the run; made again, without what it had\n"
                )
                self._make()
            elif lost:
                # Another run came and ended: its folder is not for this one to hold.
                self._lock.release()
                raise in_use(self.path)
            self._lines.reopen()
        except FileError:
            raise
        except (OSError, ValueError) as error:
            raise unwritable(self.path, error) from error

    @property
    def _new_checkpoint(self) -> Path:
        """The next checkpoint, until it is whole."""
        return self.path / f".{self.checkpoint.name}.new"

    def _shift(self) -> None:
        """Make each checkpoint an earlier one; the earliest goes."""
        for younger, older in reversed([*pairwise([self.checkpoint, *self.earlier])]):
            if younger.exists():
                younger.replace(older)

    def _rewind(self, resumed: Path, updates: int) -> None:
        """Make a checkpoint of so many updates the latest, and remove later ones."""
        ages = [self.checkpoint, *self.earlier]
        place = ages.index(resumed) if resumed in ages else 0
        later = [file for file in ages[:place] if file.exists()]
        others = (file for file in ages[place:] if file != resumed)
        later += [file for file in others if (updates_of(file) or 0) > updates]
        if later:
            names = ", ".join(file.name for file in later)
            sys.stderr.write(
                f"going on from update {updates}; later checkpoints are removed: {names}\n"
            )
        # A run that is killed here has the latest checkpoint, which one step replaces.
        for file in later:
            if file != self.checkpoint:
                file.unlink()
        if resumed not in ages:
            with files.replacing(self._new_checkpoint) as temporary:
                shutil.copyfile(resumed, temporary)
            if self.checkpoint not in later:
                self._shift()
            self._new_checkpoint.replace(self.checkpoint)
        elif resumed != self.checkpoint:
            resumed.replace(self.checkpoint)
        files.sync_folder(self.path)

    def _make(self) -> None:
        """Make the folder with its configuration; the first file shows if it can be written to."""
        self.path.mkdir(parents=True, exist_ok=True)
        files.replace(self.config, self._text)

    def _sweep(self) -> None:
        """Remove the temporary files and folders of runs that were killed."""
        for file in (self.config, *self._results):
            # A checkpoint's new file has a temporary one of its own.
            for pattern in (f".{file.name}.*", f"..{file.name}.new.*"):
                for left in self.path.glob(pattern):
                    if left.is_dir():
                        shutil.rmtree(left)
                    else:
                        left.unlink(missing_ok=True)

    def _link(self) -> None:
        """Point `runs/latest` to the folder, where it is in `runs` and links can be made."""
        link = self.path.parent / LATEST
        if self.path.absolute().parent.name != RUNS.name or (
            link.exists() and not link.is_symlink()
        ):
            return
        temporary = link.with_name(f".{LATEST}.{os.getpid()}")
        with contextlib.suppress(OSError):
            temporary.symlink_to(self.path.name, target_is_directory=True)
            temporary.replace(link)

    @property
    def _results(self) -> tuple[Path, ...]:
        checkpoints, diverged = (self.checkpoint, *self.earlier), [self.path / x for x in FILES]
        return self.metrics, *checkpoints, self.policy, self.picture, self.summary, *diverged

    def _check_free(self, *, new: bool) -> None:
        """Raise FileError if the files belong to another program, or to another run of ours."""
        try:
            present = [file for file in (self.config, *self._results) if file.exists()]
        except (OSError, ValueError) as error:
            raise unwritable(self.path, error) from error
        if not present:
            return
        if not self.config.is_file() or not self.config.read_bytes().startswith(MARK.encode()):
            if not new:
                raise FileError(
                    f"{self.path}: expected the run's folder, with the {self.config.name} that it "
                    "wrote, got none or another; put it back, or go on in another folder by --out"
                )
            raise FileError(
                f"{self.path}: expected a new folder or one of a pgcore run, "
                f"got another program's {present[0].name}; choose another"
            )
        # A run that failed before its first update has left nothing to lose.
        kept = [file.name for file in present if file != self.config and file.stat().st_size]
        if new and kept:
            raise FileError(
                f"{self.path}: expected a new folder, got one with a run's {kept[0]}; choose another, "
                f"leave --out out, or go on with that run: --resume {self.path}"
            )


def unwritable(path: Path, error: Exception | str) -> FileError:
    """Return the error of a folder or file that cannot be written, by the system's own reason."""
    reason = error.__cause__ or error if isinstance(error, FileError) else error
    reason = getattr(reason, "strerror", None) or reason
    return FileError(
        f"{path}: expected a folder to write to, got {reason}; choose one you can write to"
    )


def refuse_file(path: Path) -> None:
    """Raise FileError where a folder is to be, or any folder above it, and a file is there."""
    for place in (path, *path.parents):
        if place.is_file():
            raise unwritable(path, f"the file {place}")
