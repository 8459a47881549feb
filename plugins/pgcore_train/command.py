"""The body of `pgcore train`: from arguments to results and an exit status."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np

from pgcore.cli.plugins import command_line
from pgcore.data.files import checked_path
from pgcore.errors import SpecError
from pgcore_train.config.config import Layer, RunConfig, merge, read_assignments, read_toml
from pgcore_train.config.settings import RunSettings
from pgcore_train.interrupt import Interrupt, Stopped
from pgcore_train.report import Results, figures_of
from pgcore_train.resuming import restore
from pgcore_train.run.checkpoint import Checkpoint, find_checkpoint, has_checkpoint
from pgcore_train.run.folder import RunFolder
from pgcore_train.run.loggers import Loggers
from pgcore_train.run.progress import ProgressBar
from pgcore_train.run.saving import Saver
from pgcore_train.training import Ending, Training

__all__ = ["run_command"]

# Exit statuses; a shell's for a process that a signal ended is 128 and the signal's number.
GOAL_MISSED, SIGNALLED = 1, 128


def run_command(
    options: Layer,
    assignments: Sequence[str],
    *,
    config: Path | None = None,
    resume: Path | None = None,
) -> int:
    """Train, write results into the run's folder and print a summary; return the exit status.

    Args:
        options: Settings of command-line options.
        assignments: `section.key=value` each.
        config: A TOML file, or None.
        resume: A checkpoint or a run's folder, or None.

    Raises:
        PgcoreError: a setting cannot be taken, before training; or an environment or an update
            failed, during it.
    """
    # Later layers win.
    layers = [options, read_assignments(assignments)]
    if config is not None:
        layers.insert(0, read_toml(config))
    if resume is None:
        return run_settings(RunConfig.of(merge(*layers)))

    # A run that goes on in its own folder reads there only what no other run is writing.
    place = folder_of(checked_path("--resume", resume))
    out = merge(*layers).get("run", {}).get("out")
    if out is not None:
        RunSettings(out=out)  # refuses one that is no path
    goes_on = out is None or os.path.realpath(out) == os.path.realpath(place)
    # Nothing is left behind in a folder that is no run's.
    folder = RunFolder(place) if goes_on and has_checkpoint(resume) else None
    with nullcontext() if folder is None else folder.locked():
        file, checkpoint = find_checkpoint(resume)
        settings = RunConfig.of(merge(checkpoint.config, *layers))
        return run_settings(settings, checkpoint, folder, file)


def run_settings(
    settings: RunConfig,
    checkpoint: Checkpoint | None = None,
    folder: RunFolder | None = None,
    resumed: Path | None = None,
) -> int:
    """Train by settings.

    Args:
        settings: The run's.
        checkpoint: What it goes on from, or None.
        folder: The checkpoint's, held for this run; None for a folder without results.
        resumed: The checkpoint's file.

    Returns:
        The exit status.
    """
    try:
        with closing(Training(settings)) as training:
            if checkpoint is not None:
                for line in restore(training, checkpoint):
                    sys.stderr.write(f"{line}\n")
            if folder is not None:
                updates = training.history.updates
                return train_into_folder(training, folder, updates=updates, resumed=resumed)
            with new_folder(settings).locked() as empty:
                return train_into_folder(training, empty, updates=None)
    except MemoryError as error:
        raise SpecError(
            f"pgcore train: expected settings that fit into memory, got {error or 'too much'}; lower "
            "rollout.envs, rollout.length, replay.capacity or network.hidden"
        ) from error


def new_folder(settings: RunConfig) -> RunFolder:
    """Return the folder of a new run."""
    run = settings.run
    if run.out is not None:
        return RunFolder(run.out)
    environment, estimator = settings.environment["name"], settings.estimator["name"]
    return RunFolder.new(f"{environment}-{estimator}-{run.seed}")


def train_into_folder(
    training: Training, folder: RunFolder, *, updates: int | None, resumed: Path | None = None
) -> int:
    """Train and write the results; see `run_command` and `RunFolder.open`.

    An error of the evaluation comes after the results of training.
    """
    with (
        folder.open(training.config.to_toml(), updates=updates, resumed=resumed),
        open_loggers(training, folder) as loggers,
        Interrupt() as interrupt,
    ):
        saver = Saver(training, folder)
        training.keep_evidence(folder.path)
        results = Results(training, folder)
        failure: Exception | None = None
        try:
            ending = train(training, saver, loggers)
        except BaseException:
            # An environment or an update failed: the policy up to then is worth keeping.
            with interrupt.deferred():
                results.write()
            raise
        try:
            # Another Ctrl-C does not take the results away, a third one does.
            with interrupt.deferred():
                results.write()
            # Someone who interrupts does not want to wait for an evaluation.
            if ending is not Ending.INTERRUPT:
                results.evaluation = training.evaluate()
        except Stopped as stop:
            training.stopped_by = training.stopped_by or stop.signal
        except Exception as error:  # noqa: BLE001 - raised below: training itself is complete
            failure = error
        with suppress(Stopped), interrupt.deferred():
            text = results.summarise(ending)
            loggers.end(figures_of(training, ending, results.evaluation), failure)
            sys.stdout.write(text)
        if failure is not None:
            raise failure
    results.raise_problem()
    return status_of(training, folder, ending)


def train(training: Training, saver: Saver, loggers: Loggers) -> Ending:
    """Train with a progress bar; see `Training.run`."""
    history = training.history
    with ProgressBar(training.config.run.steps, history.steps) as bar:

        def after_update(metrics: Mapping[str, float]) -> None:
            saver.after_update(metrics)
            loggers.update(metrics)
            bar.update(history.steps, history.mean_return, metrics)

        return training.run(after_update)


def status_of(training: Training, folder: RunFolder, ending: Ending) -> int:
    """Return the exit status; tell how a run that a signal ended goes on."""
    if (ended := training.stopped_by) is not None:
        resumable = ending is Ending.INTERRUPT and folder.checkpoint.exists()
        command = command_line(["train", "--resume", str(folder.path)])
        further = f"; go on with: {command}" if resumable else ""
        sys.stderr.write(f"stopped by {ended.name}{further}\n")
        return SIGNALLED + ended
    missed = ending is Ending.STEPS and training.config.run.stop_at is not None
    return GOAL_MISSED if missed else 0


@contextmanager
def open_loggers(training: Training, folder: RunFolder) -> Generator[Loggers]:
    """Give the loggers of a run that has started; they hear of its end by an error or by Ctrl-C."""
    loggers = Loggers(folder.path)
    try:
        loggers.start(training.config.layer())
        yield loggers
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        ending = Ending.INTERRUPT if interrupted else Ending.ERROR
        loggers.end(figures_of(training, ending, np.empty(0)), None if interrupted else error)
        raise


def folder_of(resume: Path) -> Path:
    """Return the folder that holds a checkpoint; the folder itself for a link to one."""
    folder = resume if resume.is_dir() else resume.parent
    return folder.parent / folder.readlink() if folder.is_symlink() else folder
