"""The body of `pgcore train`: from arguments to results and an exit status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pgcore_train.config.config import Layer, RunConfig, merge, read_assignments, read_toml
from pgcore_train.report import figures_of, summarise, write_results
from pgcore_train.run.checkpoint import Checkpoint, load_checkpoint
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
    checkpoint = None if resume is None else load_checkpoint(resume)
    # Later layers win.
    layers = [options, read_assignments(assignments)]
    if config is not None:
        layers.insert(0, read_toml(config))
    if checkpoint is not None and resume is not None:
        layers.insert(0, resumed_layer(checkpoint, resume))
    settings = RunConfig.of(merge(*layers))
    training = Training(settings)
    try:
        return train_into_folder(training, checkpoint, resume)
    finally:
        training.close()


def train_into_folder(
    training: Training, checkpoint: Checkpoint | None, resume: Path | None
) -> int:
    """Train and write the results; see `run_command`."""
    if checkpoint is not None:
        training.restore(checkpoint)
    run = training.config.run
    environment = training.config.environment["name"]
    folder = RunFolder(run.out or f"runs/{environment.replace('/', '-').replace(':', '-')}")
    # A resumed run in its own folder adds to the metrics; anywhere else it starts new ones.
    goes_on = resume is not None and folder.path.resolve() == folder_of(resume).resolve()
    updates = training.history.updates if goes_on else None
    with (
        folder.open(training.config.to_toml(), updates=updates),
        open_loggers(training, folder) as loggers,
    ):
        try:
            saver = Saver(training, folder)
            training.keep_evidence(folder.path)
            with ProgressBar(run.steps, training.history.steps) as bar:

                def after_update(metrics: Mapping[str, float]) -> None:
                    folder.write_metrics(metrics)
                    saver.after_update()
                    loggers.update(metrics)
                    bar.update(training.history.steps, training.history.mean_return, metrics)

                ending = training.run(after_update)
        finally:
            # Also when an environment or an update failed: the policy up to then is worth keeping.
            no_picture = write_results(training, folder)
        # Someone who interrupts does not want to wait for an evaluation.
        evaluation = np.empty(0) if ending is Ending.INTERRUPT else training.evaluate()
        text = summarise(training, folder, ending, evaluation, no_picture)
        loggers.end(figures_of(training, ending, evaluation), None)
    sys.stdout.write(text)
    if ending is Ending.INTERRUPT:
        ended = training.stopped_by or signal.SIGINT
        sys.stderr.write(
            f"stopped by {ended.name}; go on with: pgcore train --resume {folder.path}\n"
        )
        return SIGNALLED + ended
    missed = ending is Ending.STEPS and run.stop_at is not None
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


def resumed_layer(checkpoint: Checkpoint, resume: Path) -> Layer:
    """Return the checkpoint's settings, with its folder as that of the results."""
    return merge(checkpoint.config, {"run": {"out": str(folder_of(resume))}})


def folder_of(resume: Path) -> Path:
    """Return the folder that holds a checkpoint."""
    return resume if resume.is_dir() else resume.parent
