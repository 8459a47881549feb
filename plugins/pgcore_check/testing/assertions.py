"""The assertions of the kit."""

from __future__ import annotations

import warnings

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore_check.compare import compare_policies
from pgcore_check.conformance import refused
from pgcore_check.testing.cells import CheckCell
from pgcore_check.testing.failures import blindness_text, outcome_text, pytest_line, row_text

__all__ = ["assert_agrees", "assert_same_gradient"]

# The stages of a report up to the gradient; the optimizer's come after it.
LAST = "gradient"


def assert_agrees(cell: CheckCell) -> None:
    """Run one case on one backend as `pgcore check` does.

    A case in which rounding may hide any error agrees with a warning. One whose head the backend
    cannot build, as without a closed form, is skipped with the reason; it fails if the backend was
    asked for by name.

    Args:
        cell: One of `cells`, or the parameter of `parametrize_cells`.

    Raises:
        AssertionError: the backend departs from the reference at some stage, or raises. The message
            has the stage, the entry, both values, the error in units of the rounding-error bound
            and relative to the value, and a command line that runs the case again.

    Example:
        >>> from pgcore_check.testing import assert_agrees, cells
        >>> assert_agrees(cells(estimators=["reinforce"], backends=["numpy"], quick=True)[0])
    """
    __tracebackhide__ = True
    outcome = cell.run()
    if outcome.unchecked and cell.named:
        outcome = refused(outcome)
    if outcome.unchecked:
        # Without pytest there is nobody to skip for, and `cells` works.
        import pytest

        pytest.skip(f"{cell.backend}: {outcome.unchecked}")
    if not outcome.agrees:
        raise AssertionError(outcome_text(outcome, cell.command or pytest_line(cell.options)))
    if outcome.blind:
        warnings.warn(blindness_text(outcome), stacklevel=2)


def assert_same_gradient(left: Policy, right: Policy, estimator: Estimator, batch: Batch) -> None:
    """Compare two policies that should be equal, such as a network and its port, to the gradient.

    Args:
        left: One policy, built or adopted.
        right: The other.
        estimator: Which loss.
        batch: Whole episodes, as both take them.

    Raises:
        AssertionError: parameters, signals, quantities, terms or gradients differ by more than
            rounding explains; the message is as that of `assert_agrees`.
        PgcoreError: the policies cannot be compared; see `pgcore.compare_policies`.

    Example:
        >>> import numpy as np, pgcore as pg
        >>> from pgcore_check.testing import assert_same_gradient
        >>> batch = pg.Batch(observations=np.eye(2), actions=[0, 1], rewards=[1.0, 2.0],
        ...                  episode_lengths=[2], terminated=[True])
        >>> spec = pg.PolicySpec(pg.Linear(2), pg.Categorical(2))
        >>> left, right = pg.policy(spec), pg.policy(spec)
        >>> assert_same_gradient(left, right, pg.estimator("reinforce"), batch)
    """
    __tracebackhide__ = True
    rows = compare_policies(left, right, estimator, batch).rows
    stages = [row.stage for row in rows]
    # A policy whose gradient cannot be compared ends before that stage.
    last = stages.index(LAST) if LAST in stages else len(stages)
    for row in rows[: last + 1]:
        if not row.agrees:
            raise AssertionError(row_text(row))
