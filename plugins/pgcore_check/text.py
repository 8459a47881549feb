"""The text and the JSON that `pgcore check` prints."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pgcore_check.conformance import Plan
from pgcore_check.outcomes import IDENTITY, Outcome, blindness, reason, shown, summary, worst

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["json_of", "text_of", "unchecked_lines"]

# The number of disagreements that are listed; the JSON and the page list all.
SHOWN = 20

# The mode of a backend that cannot be loaded.
NOT_LOADED = "not loaded"


def json_of(outcomes: Sequence[Outcome], plan: Plan, seconds: float) -> str:
    """Return the JSON report, with null for infinity and NaN.

    Args:
        outcomes: All outcomes of the run.
        plan: The plan that was run.
        seconds: The run's duration.
    """
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        row = asdict(outcome) | {"agrees": outcome.agrees, "blind": outcome.blind}
        for key, value in row.items():
            # JSON has no infinity and no NaN.
            if isinstance(value, float) and not math.isfinite(value):
                row[key] = None
        rows.append(row)
    report = {
        "agrees": bool(rows) and all(row["agrees"] for row in rows),
        "seconds": seconds,
        "backends": list(plan.backends),
        "absent": plan.absent,
        "unchecked": plan.unchecked,
        "outcomes": rows,
    }
    return json.dumps(report, indent=1, allow_nan=False) + "\n"


def text_of(outcomes: Sequence[Outcome], plan: Plan, seconds: float) -> str:
    """Return the table of estimators by backends, and the remarks below it; see `json_of`."""
    from rich.console import Console

    # A terminal wraps wide lines; a file has no width.
    # Identities are no backend's: they have lines and no column.
    cases = [outcome for outcome in outcomes if outcome.fixture != IDENTITY]
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as capture:
        if cases:
            console.print(
                "largest error of a gradient, in units of the rounding-error bound (limit 4); "
                "! where a case disagrees at any stage, ~ where rounding could hide any error\n"
            )
            console.print(table_of(cases))
            console.print()
    return capture.get() + "".join(f"{line}\n" for line in remarks(outcomes, plan, seconds))


def table_of(outcomes: Sequence[Outcome]) -> Table:
    """Return the table: a row for each variant, below its estimator, a column for each mode."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("estimator")
    columns = list(dict.fromkeys((outcome.backend, outcome.mode) for outcome in outcomes))
    for backend, mode in columns:
        table.add_column(f"{backend}\n{mode}", justify="right")
    # Grouped before the rows are written: outcomes come case by case, not variant by variant.
    cells: dict[tuple[str, str, str, str], list[Outcome]] = {}
    variants: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        key = (outcome.estimator, outcome.variant, outcome.backend, outcome.mode)
        cells.setdefault(key, []).append(outcome)
        variants.setdefault(outcome.estimator, {})[outcome.variant] = None
    for estimator, labels in variants.items():
        table.add_row(estimator)
        for label in labels:
            row = (cell_text(cells.get((estimator, label, *column), [])) for column in columns)
            table.add_row(f"  {label}", *row)
    return table


def cell_text(outcomes: Sequence[Outcome]) -> str:
    """Return the worst ratio of some outcomes, marked where one disagrees or is blind."""
    if not outcomes:
        return "-"
    failed = sum(not outcome.agrees for outcome in outcomes)
    blind = sum(outcome.blind for outcome in outcomes)
    ratio = shown(worst(outcomes))
    if failed:
        return f"! {failed}/{len(outcomes)}: {ratio}"
    if blind == len(outcomes):
        return "~ blind"
    return f"~ {blind}/{len(outcomes)}: {ratio}" if blind else ratio


def remarks(outcomes: Sequence[Outcome], plan: Plan, seconds: float) -> Iterator[str]:
    """Yield the disagreements, the blind cases, the absent backends and the verdict."""
    failed = [outcome for outcome in outcomes if not outcome.agrees]
    # A backend that cannot be loaded fails every case for one reason, which is printed once.
    not_loaded = {outcome.backend: outcome for outcome in failed if outcome.mode == NOT_LOADED}
    for name, outcome in not_loaded.items():
        yield f"{name}: {reason(outcome)}"
    departed = [outcome for outcome in failed if outcome.mode != NOT_LOADED]
    for outcome in departed[:SHOWN]:
        yield f"{place_of(outcome)}: {reason(outcome)}"
    if len(departed) > SHOWN:
        yield f"... and {len(departed) - SHOWN} more; --json has all of them"
    for outcome in [outcome for outcome in outcomes if outcome.blind][:SHOWN]:
        yield f"blind: {place_of(outcome)}: {blindness(outcome)}"
    for name, why in plan.absent.items():
        yield f"absent: {name} ({why})"
    yield from unchecked_lines(plan)
    yield verdict(outcomes, seconds)


def place_of(outcome: Outcome) -> str:
    """Return the backend, mode, case and fixture of an outcome; the head of its identities."""
    if outcome.fixture == IDENTITY:
        return outcome.label
    return f"{outcome.backend} ({outcome.mode}), {outcome.label}, {outcome.fixture}"


def verdict(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return the last line: the counts, the worst outcome and the duration."""
    if not outcomes:
        return "nothing to check: no backend, estimator or head is left"
    failed = sum(not outcome.agrees for outcome in outcomes)
    blind = sum(outcome.blind for outcome in outcomes)
    if failed:
        counts = f"{failed} of {len(outcomes)} disagree"
    elif blind:
        counts = f"{len(outcomes) - blind} agree and {blind} are blind"
    else:
        counts = f"all {len(outcomes)} agree"
    finite = (outcome.largest for outcome in outcomes if math.isfinite(outcome.largest))
    largest = f"largest at any stage {max(finite, default=0.0):.2g}"
    return f"{counts}; worst {summary(worst(outcomes))}; {largest}; {seconds:.0f} s"


def unchecked_lines(plan: Plan) -> Iterator[str]:
    """Yield a line for each reason, with the registered names that were not checked for it."""
    names: dict[str, list[str]] = {}
    for name, why in plan.unchecked.items():
        names.setdefault(why, []).append(name)
    for why, unchecked in names.items():
        yield f"not checked: {', '.join(unchecked)} ({why})"
