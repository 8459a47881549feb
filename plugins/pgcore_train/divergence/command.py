"""The body of `pgcore gradient`: loss, norms and metrics of a policy on a batch, or the error."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pgcore.api import estimator, gradient, load
from pgcore.cli.assignments import nested, read_assignments, without_none
from pgcore.errors import FileError, SpecError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.gradient import Gradient
from pgcore.registry.registry import registry
from pgcore_train.divergence.attempt import load_attempt

__all__ = ["run_gradient"]


def run_gradient(
    policy: Path,
    batch: Path,
    *,
    target: Path | None = None,
    name: str | None = None,
    assignments: Sequence[str] = (),
    backend: str | None = None,
) -> None:
    """Print the gradient of a policy on a batch, and take the step that the guard could not take.

    Args:
        policy: A file of `Policy.save`.
        batch: A file of the guard or of `Batch.save`.
        target: A file of `Policy.save`, the source of bootstrapped action values; None is `policy`.
        name: An estimator in place of the batch's; signals are then computed anew.
        assignments: Hyper-parameters, `name=value` each; signals are then computed anew.
        backend: None is the batch's, or else the usual one.

    Raises:
        PgcoreError: a file cannot be read, its contents do not fit together, or a number is not finite.
    """
    attempt = load_attempt(batch)
    if name or assignments:
        attempt = dataclasses.replace(attempt, signals=None, optimizer=None)
    rule = make_estimator(batch, attempt.estimator, name, assignments)
    backend = backend or attempt.backend or None
    actor = load(policy, backend=backend)
    older = None if target is None else load(target, backend=backend)
    made = attempt.batch
    assert not isinstance(made, Mapping)
    result = gradient(actor, rule, made, signals=attempt.signals, target=older)
    sys.stdout.write(described(result))
    if attempt.optimizer is not None:
        attempt.optimizer.restored(actor).step(actor, result)
        actor.check_unread()
        sys.stdout.write(f"{'step':<24}finite\n")


def make_estimator(
    path: Path, saved: Mapping[str, Any], name: str | None, assignments: Sequence[str]
) -> Estimator:
    """Return the batch's estimator, or the one of `name`, with some hyper-parameters replaced.

    Raises:
        FileError: the batch has none, and there is no name.
        SpecError: an assignment is not of its form.
        EstimatorError: a hyper-parameter has a value it cannot take.
    """
    fields = {} if name else dict(saved)
    name = name or fields.pop("name", None)
    if name is None:
        raise FileError(
            f"{path}: expected an estimator beside the batch, got none; give --estimator NAME"
        )
    cls: Any = registry().load("estimators", name)
    fields |= nested(read_assignments(assignments))
    try:
        return estimator(name, **without_none(cls, fields))
    except TypeError as error:
        raise SpecError(
            f"{name}: expected hyper-parameters by name, got {sorted(fields)} ({error}); correct --set"
        ) from error


def described(result: Gradient) -> str:
    """Return metrics, and the norm of each parameter's derivative, as two columns.

    Raises:
        NonFiniteError: the loss is NaN or infinite.
    """
    rows = {name: f"{value:.6g}" for name, value in result.metrics.items()}
    for name, value in result.numpy().items():
        # Squares of large entries overflow, which `hypot` avoids.
        norm = math.hypot(*np.ravel(value).tolist())
        rows[name] = f"|g| = {norm:.6g}, shape {list(value.shape)}"
    width = max(24, 2 + max(map(len, rows)))
    return "".join(f"{name:<{width}}{text}\n" for name, text in rows.items())
