"""The files of a step that could not be taken, and the command that computes it again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pgcore.cli.plugins import command_line
from pgcore.errors import FileError, ParameterError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.optimizer import Optimizer
from pgcore.interfaces.policy import Policy
from pgcore_train.divergence.attempt import Attempt
from pgcore_train.learning.target import Target

__all__ = ["FILES", "Evidence", "Learner"]

POLICY, BATCH, TARGET = FILES = tuple(
    f"diverged-{part}.safetensors" for part in ("policy", "batch", "target")
)


class Learner(NamedTuple):
    """The parts of a run that a step reads and changes."""

    policy: Policy
    estimator: Estimator
    optimizer: Optimizer
    target: Target | None = None


class Evidence(NamedTuple):
    """The folder of a run for these files.

    Attributes:
        folder: Where they are written.
        table: Returns an estimator's registered name and hyper-parameters, as plain data.
    """

    folder: Path
    table: Callable[[Estimator], Mapping[str, Any]]

    def write(self, learner: Learner, **attempt: Any) -> str:
        """Write policy, batch and maybe target, and return the command, or why there is none.

        Args:
            learner: As it was before the step.
            attempt: Fields of `Attempt` beside the estimator's and the backend's.
        """
        words = ["gradient"]
        # Signals that were computed have all that is read of the target.
        target = None if attempt.get("signals") is not None else learner.target
        table, backend = self.table(learner.estimator), learner.policy.backend
        try:
            for option, file, saved in (
                ("--policy", POLICY, learner.policy),
                ("--batch", BATCH, Attempt(estimator=table, backend=backend, **attempt)),
                ("--target", TARGET, target and target.policy),
            ):
                if saved is not None:
                    saved.save(self.folder / file)
                    words += [option, str(self.folder / file)]
        # The reason to stop counts more than a full disk.
        except (FileError, ParameterError) as error:
            return f"its batch is not written ({error})"
        return f"see it again by: {command_line(words)}"
