"""The guard of training: steps that are not finite are stopped, left out or made smaller."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.api import gradient
from pgcore.api import signals as signals_of
from pgcore.data.batch import Batch
from pgcore.errors import BatchError, NonFiniteError
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.optimizer import StepReport
from pgcore.interfaces.signals import Signals
from pgcore.validation.arrays import row_not_finite
from pgcore_train.divergence.attempt import OptimizerState
from pgcore_train.divergence.evidence import Evidence, Learner

__all__ = ["SHRINK", "SKIP", "STOP", "Guard"]

STOP, SKIP, SHRINK = "stop", "skip", "shrink"


class Guard:
    """Takes steps, or what `training.on_divergence` says in place of one that is not finite.

    Policy, optimizer and target are those before such a step, on every choice.

    Attributes:
        evidence: Where the files of the first such step are written; None for none.
        skipped: Steps left out since `start`.
        shrunk: Steps taken with a smaller learning rate since `start`.
    """

    evidence: Evidence | None = None
    skipped = shrunk = 0

    def __init__(self, choice: str = STOP, attempts: int = 0) -> None:
        """Keep the choice.

        Args:
            choice: "stop", "skip" or "shrink".
            attempts: Halvings of the learning rate before a step is left out, for "shrink".
        """
        self.choice, self.attempts = choice, attempts
        self._told = set[str]()

    def start(self) -> None:
        """Begin an update."""
        self.skipped = self.shrunk = 0

    @property
    def metrics(self) -> dict[str, float]:
        """The counts of this update by name; none where training stops."""
        counts: dict[str, float] = {} if self.choice == STOP else {"skipped": self.skipped}
        return counts | ({"shrunk": self.shrunk} if self.choice == SHRINK else {})

    def batch(self, fields: Mapping[str, Any], learner: Learner, steps: int) -> Batch | None:
        """Return the batch of a rollout, or None where its numbers are not finite.

        Args:
            fields: The arguments of `Batch`.
            learner: Whose rollout.
            steps: The optimizer steps of an update on it.

        Raises:
            BatchError: it cannot be made, and is to stop training.
        """
        try:
            return Batch(**fields)
        except BatchError as error:
            if finite(fields):
                raise
            self.skip(error, learner, fields, steps=steps)
            return None

    def step(
        self, learner: Learner, batch: Batch, signals: Signals | None = None
    ) -> tuple[Gradient, StepReport | None] | None:
        """Take an optimizer step on a batch, followed by the target; return None where it is left out.

        Args:
            learner: Changed in place.
            batch: A minibatch.
            signals: Of the batch; None computes them.

        Raises:
            NonFiniteError: a signal, a quantity, the loss, the gradient or the step is NaN or infinite,
                and is to stop training.
        """
        policy, estimator, _, target = learner
        try:
            if signals is None:
                source = None if target is None else target.policy
                signals = signals_of(policy, estimator, batch, target=source)
            direction = gradient(policy, estimator, batch, signals=signals)
            # A term of the loss can overflow where its derivatives do not; reading it raises.
            _ = direction.loss
        except NonFiniteError as error:
            self.skip(error, learner, batch, signals)
            return None
        try:
            report = take(learner, direction)
        except NonFiniteError as error:
            smaller = self._shrunk(error, learner, direction)
            if smaller is None:
                self.skip(error, learner, batch, signals, stepped=True)
            return smaller
        return direction, report

    def skip(
        self,
        error: NonFiniteError | BatchError,
        learner: Learner,
        batch: Batch | Mapping[str, Any],
        signals: Signals | None = None,
        *,
        steps: int = 1,
        stepped: bool = False,
    ) -> None:
        """Leave steps out, or stop by the error.

        Args:
            error: The reason.
            learner: As it was before the first of them.
            batch: Their batch, or its arguments.
            signals: Of the batch, where they were computed.
            steps: Their number.
            stepped: Whether the optimizer's step failed, and not the gradient.

        Raises:
            NonFiniteError, BatchError: the error with the files' names, unless steps are left out.
        """
        again = ""
        if self.evidence is not None and (self.choice == STOP or "skip" not in self._told):
            state = OptimizerState.of(learner.optimizer, learner.policy) if stepped else None
            again = self.evidence.write(learner, batch=batch, signals=signals, optimizer=state)
        if self.choice == STOP:
            raise error if not again else type(error)(f"{error}; {again}")
        self.skipped += steps
        self._tell("skip", f"left out {steps} of the update's steps: {error}", again)

    def _shrunk(
        self, error: NonFiniteError, learner: Learner, direction: Gradient
    ) -> tuple[Gradient, StepReport | None] | None:
        """Take the step at the first half, quarter, ... of its rate that is finite; None if none is."""
        optimizer = learner.optimizer
        spec = optimizer.spec
        names = {field.name for field in dataclasses.fields(spec)}
        # A trust region without a rate has shortened its step already.
        if self.choice != SHRINK or "learning_rate" not in names or not hasattr(spec, "rate"):
            return None
        rate = spec.rate(optimizer.steps_taken)
        try:
            for halvings in range(1, self.attempts + 1):
                optimizer.spec = dataclasses.replace(spec, learning_rate=rate * 0.5**halvings)
                try:
                    report = take(learner, direction)
                except NonFiniteError:
                    continue
                self.shrunk += 1
                self._tell("shrink", f"took a step at 1/{2**halvings} of its rate: {error}", "")
                return direction, report
        finally:
            optimizer.spec = spec
        return None

    def _tell(self, kind: str, line: str, again: str) -> None:
        """Write the first event of a kind to stderr; metrics count the others."""
        if kind not in self._told:
            self._told.add(kind)
            sys.stderr.write(f"{line}{again and f'; {again}'}\n")


def take(learner: Learner, direction: Gradient) -> StepReport | None:
    """Take an optimizer step, followed by the target policy.

    Raises:
        NonFiniteError: its results are not finite; nothing changes.
    """
    policy, _, optimizer, target = learner
    report = optimizer.step(policy, direction)
    # A device tells of a step that it refused when it is asked.
    policy.check_unread()
    if target is not None:
        target.follow(policy, optimizer.steps_taken)
    return report


def finite(fields: Mapping[str, Any]) -> bool:
    """Return whether all of a batch's arguments are finite."""
    arrays = [fields[name] for name in fields.keys() - {"extras"}]
    present = [np.asarray(x) for x in (*arrays, *fields["extras"].values()) if x is not None]
    return all(row_not_finite(array) is None for array in present)
