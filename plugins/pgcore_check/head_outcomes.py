"""The outcome of a head's identities, which belongs to no backend."""

from __future__ import annotations

import time

import numpy as np

from pgcore.errors import DependencyError
from pgcore.heads import Head
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.kinds import message_of
from pgcore_check.outcomes import IDENTITY, Outcome
from pgcore_check.stages.identities import identities, obstacle

__all__ = ["identity_label", "identity_outcome"]


def identity_label(label: str) -> str:
    """Return the label of the outcome for a head's variant of that label."""
    return f"head {label}: identities"


def identity_outcome(label: str, head: Head) -> Outcome:
    """Return the outcome of the identities of a head, at the first that fails.

    Args:
        label: That of the variant.
        head: The variant.
    """
    start = time.perf_counter()
    ratio, where, values, largest = 0.0, "", "", 0.0
    error, unchecked = None, ""
    try:
        unchecked = obstacle(head)
        rows = [] if unchecked else identities(head)
        failed = [row for row in rows if not row.holds]
        shown = failed[0] if failed else max(rows, key=lambda row: row.error, default=None)
        if shown is not None:
            # In quarters of the tolerance, so that the limit is that of all other outcomes.
            ratio, where, values = shown.error * FACTOR, shown.where, shown.values
            largest = max(row.error for row in rows) * FACTOR
    except DependencyError as problem:
        unchecked = str(problem)
    except Exception as problem:  # noqa: BLE001 - a head's code may raise anything
        ratio = largest = np.inf
        error = message_of(problem)
    agrees = ratio <= FACTOR
    return Outcome(
        backend="reference",
        mode="formulas",
        estimator=head.name,
        variant="identities",
        head=head.name,
        label=identity_label(label),
        dtype="float64",
        fixture=IDENTITY,
        ratio=ratio,
        largest=largest,
        limit=FACTOR,
        stage=None if agrees or error else "identities",
        where=where,
        error=error,
        seconds=time.perf_counter() - start,
        values="" if agrees else values,
        unchecked=unchecked,
    )
