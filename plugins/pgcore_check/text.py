"""The text and the JSON that `pgcore check` prints."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from pgcore_check.conformance import Plan
from pgcore_check.outcomes import Outcome, blindness, description, reason, shown, worst

__all__ = ["json_of", "text_of", "unchecked_lines"]

# Disagreements that are shown one by one; the JSON and the page have all.
SHOWN = 20

# The mode of a backend that cannot be loaded.
NOT_LOADED = "not loaded"


def json_of(outcomes: Sequence[Outcome], plan: Plan, seconds: float) -> str:
    """Return everything as JSON, null for what is not finite."""
    rows: list[dict[str, Any]] = []
    for outcome in outcomes:
        row = asdict(outcome) | {"agrees": outcome.agrees, "blind": outcome.blind}
        rows.append(
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in row.items()
            }
        )
    found = {
        "agrees": bool(rows) and all(row["agrees"] for row in rows),
        "seconds": seconds,
        "backends": list(plan.backends),
        "absent": plan.absent,
        "unchecked": plan.unchecked,
        "outcomes": rows,
    }
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def text_of(outcomes: Sequence[Outcome], plan: Plan, seconds: float) -> str:
    """Return the table and what there is to say about it."""
    from rich.console import Console
    from rich.table import Table

    columns = list(dict.fromkeys((outcome.backend, outcome.mode) for outcome in outcomes))
    cells: dict[tuple[str, str, str, str], list[Outcome]] = {}
    for each in outcomes:
        cells.setdefault((each.estimator, each.variant, each.backend, each.mode), []).append(each)
    table = Table(box=None, pad_edge=False)
    table.add_column("estimator")
    for backend, mode in columns:
        table.add_column(f"{backend}\n{mode}", justify="right")
    variants = dict.fromkeys((outcome.estimator, outcome.variant) for outcome in outcomes)
    for estimator in dict.fromkeys(estimator for estimator, _ in variants):
        table.add_row(estimator)
        for variant in (variant for owner, variant in variants if owner == estimator):
            row = (cell_text(cells.get((estimator, variant, *column), [])) for column in columns)
            table.add_row(f"  {variant}", *row)
    # A terminal wraps what is too wide; a file has no width.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as capture:
        if outcomes:
            console.print(
                "largest error of a gradient, in units of what rounding allows; 4 is the limit, ! where a case disagrees at any stage, "
                "~ where rounding could hide any error\n"
            )
            console.print(table)
            console.print()
    return capture.get() + "".join(f"{line}\n" for line in remarks(outcomes, plan, seconds))


def cell_text(outcomes: Sequence[Outcome]) -> str:
    """Return the worst ratio of some outcomes, marked where one disagrees or is blind; nothing where there are none."""
    if not outcomes:
        return "-"
    failed = sum(not outcome.agrees for outcome in outcomes)
    blind = sum(outcome.blind for outcome in outcomes)
    found = shown(worst(outcomes))
    if failed:
        return f"! {failed}/{len(outcomes)}: {found}"
    if blind == len(outcomes):
        return "~ blind"
    return f"~ {blind}/{len(outcomes)}: {found}" if blind else found


def remarks(outcomes: Sequence[Outcome], plan: Plan, seconds: float) -> Iterator[str]:
    """Yield the disagreements, what is absent, and the verdict."""
    failed = [outcome for outcome in outcomes if not outcome.agrees]
    lost = {outcome.backend: outcome for outcome in failed if outcome.mode == NOT_LOADED}
    for name, outcome in lost.items():
        yield f"{name}: {reason(outcome)}"
    lines = [outcome for outcome in failed if outcome.mode != NOT_LOADED]
    for outcome in lines[:SHOWN]:
        yield f"{outcome.backend} ({outcome.mode}), {outcome.label}, {outcome.fixture}: {reason(outcome)}"
    if len(lines) > SHOWN:
        yield f"... and {len(lines) - SHOWN} more; --json has all of them"
    for outcome in [outcome for outcome in outcomes if outcome.blind][:SHOWN]:
        yield f"blind: {outcome.backend} ({outcome.mode}), {outcome.label}, {outcome.fixture}: {blindness(outcome)}"
    for name, why in plan.absent.items():
        yield f"absent: {name} ({why})"
    yield from unchecked_lines(plan)
    if not outcomes:
        yield "nothing to check: no backend, estimator or head is left"
        return
    blind = sum(outcome.blind for outcome in outcomes)
    agree = (
        f"{len(outcomes) - blind} agree and {blind} are blind"
        if blind
        else f"all {len(outcomes)} agree"
    )
    verdict = f"{len(failed)} of {len(outcomes)} disagree" if failed else agree
    largest = max((each.largest for each in outcomes if math.isfinite(each.largest)), default=0.0)
    yield f"{verdict}; worst {description(worst(outcomes))}; largest at any stage {largest:.2g}; {seconds:.0f} s"


def unchecked_lines(plan: Plan) -> Iterator[str]:
    """Yield what is registered and not checked, one line a reason."""
    for why in dict.fromkeys(plan.unchecked.values()):
        yield f"not checked: {', '.join(name for name, own in plan.unchecked.items() if own == why)} ({why})"
