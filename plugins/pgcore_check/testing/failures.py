"""The message of a failed assertion: stage, entry, values, error, and the line that runs it again."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence

from pgcore_check.compare import Row
from pgcore_check.outcomes import IDENTITY, Outcome, blindness

__all__ = ["blindness_text", "outcome_text", "pytest_line", "row_text"]

# What pytest appends to the test's name in its environment variable.
PHASES = (" (setup)", " (call)", " (teardown)")


def outcome_text(outcome: Outcome, line: str) -> str:
    """Return the message of an outcome that disagrees.

    Args:
        outcome: The outcome.
        line: The command line that runs it again, or "".
    """
    heading = f"{outcome.backend} ({outcome.mode}), {outcome.label}, {outcome.fixture}"
    if outcome.error is not None:
        lines = [f"{heading}: expected a result, got an error", *outcome.error.splitlines()]
        return with_line("\n  ".join(lines), line)
    stage = str(outcome.stage)
    where = outcome.where.removeprefix(f"{stage}: ")
    size = error_text(outcome.ratio, outcome.limit, unit_of(outcome.fixture))
    parts = departure(stage, where, outcome.values, size)
    return with_line("\n  ".join([f"{heading}: departs from the reference", *parts]), line)


def row_text(row: Row) -> str:
    """Return the message of a row that disagrees."""
    size = error_text(row.ratio, row.limit, unit_of())
    parts = departure(row.stage, row.where, row.values, size)
    lines = [f"{row.backend}: the policies differ", *parts]
    return with_line("\n  ".join(lines), pytest_line())


def unit_of(fixture: str = "") -> str:
    """Return the unit of a ratio on a fixture; identities have a tolerance instead of a bound."""
    return "a quarter of the tolerance" if fixture == IDENTITY else "the rounding-error bound u e"


def error_text(ratio: float, limit: float, unit: str) -> str:
    """Return an error in its unit beside the limit, or why it is no number."""
    if not math.isfinite(ratio):
        return "not finite, or of a wrong shape or dtype"
    return f"{ratio:.3g} times {unit}, the limit is {limit:g}"


def departure(stage: str, where: str, values: str, size: str) -> list[str]:
    """Return the lines on a stage, an entry, its two values and its error."""
    # The entry of a scalar is [].
    lines = [f"stage: {stage}", f"entry: {where.removesuffix('[]')}"]
    lines += [f"values: {values}"] if values else []
    return [*lines, f"error: {size}"]


def with_line(text: str, line: str) -> str:
    """Return a message with the command line that reproduces it, where there is one."""
    return f"{text}\n  reproduce: {line}" if line else text


def pytest_line(options: Sequence[str] = ()) -> str:
    """Return the command line of the running test; "" outside of pytest."""
    test = os.environ.get("PYTEST_CURRENT_TEST", "")
    for phase in PHASES:
        test = test.removesuffix(phase)
    return shlex.join(["pytest", *options, test]) if test else ""


def blindness_text(outcome: Outcome) -> str:
    """Return the warning on an outcome whose agreement means little."""
    place = f"{outcome.backend} ({outcome.mode}), {outcome.label}, {outcome.fixture}"
    return f"{place}: agreement means little; {blindness(outcome)}"
