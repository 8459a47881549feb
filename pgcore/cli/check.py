"""`pgcore check`: every estimator on every backend beside the reference."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pgcore.testing.conformance import Outcome, Plan

__all__ = ["check_command", "refuse_no_place"]

# Disagreements that are shown one by one; the JSON and the page have all.
SHOWN = 20

# The mode of a backend that cannot be loaded.
NOT_LOADED = "not loaded"


def check_command(
    *,
    backends: Annotated[
        str | None,
        typer.Option(help="Names, comma between; each must be usable. All usable ones by default.", show_default=False),
    ] = None,
    estimators: Annotated[str | None, typer.Option(help="Names; all by default.", show_default=False)] = None,
    heads: Annotated[str | None, typer.Option(help="Names; all by default.", show_default=False)] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few cases, in which everything occurs, each backend in its usual mode.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="The whole product of cases; hours.")] = False,
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="How many share the work; one for each core, and at most 4, by default.", show_default=False
        ),
    ] = min(os.cpu_count() or 1, 4),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: every outcome, and what is absent.")] = False,
    html: Annotated[
        Path | None, typer.Option(help="Also write one self-contained page to look at.", show_default=False)
    ] = None,
) -> None:
    """Hold every estimator on every backend to the reference, stage by stage; exit status 1 when any disagrees.

    Errors are in units of what honest rounding allows, u e; 4 is the limit. By default every pair of two among estimator, head,
    network, critic, dtype and optimizer occurs, on random, extreme and kink cases.
    """
    if quick and full:
        raise typer.BadParameter("expected --quick or --full, got both; choose one")
    if html is not None:
        refuse_no_place(html, "--html")
    # The engine imports the kit, and the plan the frameworks.
    from pgcore.testing.conformance import plan, run

    start = time.perf_counter()
    chosen = plan(
        backends=names(backends),
        estimators=names(estimators),
        heads=names(heads),
        extent="quick" if quick else "full" if full else "standard",
    )
    outcomes: list[Outcome] = []
    with progress(len(chosen.parts)) as advance:
        for found in run(chosen, processes):
            outcomes += found
            advance(found[-1])
    seconds = time.perf_counter() - start
    # First, so that what took hours is not lost where the page cannot be written.
    sys.stdout.write(json_of(outcomes, chosen, seconds) if as_json else text_of(outcomes, chosen, seconds))
    sys.stdout.flush()
    if html is not None:
        from pgcore.cli.check_page import check_page
        from pgcore.files import replace

        replace(html, check_page(outcomes, chosen.absent, seconds, [*unchecked_lines(chosen)]).encode())
    if not outcomes or not all(outcome.agrees for outcome in outcomes):
        raise typer.Exit(1)


def refuse_no_place(page: Path, option: str) -> None:
    """Raise where no file can be written, before anything is run; the option is named in the message."""
    folder = page.absolute().parent
    try:
        if not folder.is_dir():
            raise typer.BadParameter(
                f"{option}: expected a file in a folder that exists, got {page}; make the folder first"
            )
        if page.is_dir():
            raise typer.BadParameter(f"{option}: expected a file, got the folder {page}; add a file name")
        with TemporaryFile(dir=folder):  # Permissions do not tell of a file system that is read-only.
            pass
    except OSError as error:
        raise typer.BadParameter(
            f"{option}: expected a place to write to, got {error.strerror} for {page}; choose another"
        ) from error


def names(given: str | None) -> list[str] | None:
    """Return the names of a comma list, or None where there is no list."""
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]


@contextmanager
def progress(total: int) -> Generator[Callable[[Outcome], None]]:
    """Give a function that moves a bar on stderr, where that is a terminal; it does nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("checking"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[at]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("checking", total=total, at="")
        yield lambda outcome: bar.update(task, advance=1, at=outcome.label)


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
    agree = f"{len(outcomes) - blind} agree and {blind} are blind" if blind else f"all {len(outcomes)} agree"
    verdict = f"{len(failed)} of {len(outcomes)} disagree" if failed else agree
    largest = max((each.largest for each in outcomes if math.isfinite(each.largest)), default=0.0)
    yield f"{verdict}; worst {description(worst(outcomes))}; largest at any stage {largest:.2g}; {seconds:.0f} s"


def unchecked_lines(plan: Plan) -> Iterator[str]:
    """Yield what is registered and not checked, one line a reason."""
    for why in dict.fromkeys(plan.unchecked.values()):
        yield f"not checked: {', '.join(name for name, own in plan.unchecked.items() if own == why)} ({why})"


def blindness(outcome: Outcome) -> str:
    """Return why agreement means little."""
    if outcome.power == 0:
        return "rounding may be as large as an error in every component of its gradient"
    return f"a choice is {outcome.nearest:.0f} u from its kink"


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the outcome to look at first: errors, then what is not finite, then the largest share of the limit."""
    return max(outcomes, key=lambda each: (not each.agrees, each.error is not None, share(each)))


def share(outcome: Outcome) -> float:
    """Return the ratio as a share of the limit, infinite for NaN."""
    return math.inf if math.isnan(outcome.ratio) else outcome.ratio / outcome.limit


def shown(outcome: Outcome) -> str:
    """Return a ratio with two digits, or why there is none."""
    if outcome.error is not None:
        return "error"
    return f"{float(f'{outcome.ratio:.2g}'):g}" if math.isfinite(outcome.ratio) else "not finite"


def description(outcome: Outcome) -> str:
    """Return a ratio, and whose it is."""
    where = "" if outcome.error is not None else f", {outcome.where.removesuffix('[]')}"
    return f"{shown(outcome)} ({outcome.backend} {outcome.mode}, {outcome.label}{where})"


def reason(outcome: Outcome) -> str:
    """Return why an outcome disagrees, on one line."""
    if outcome.error is not None:
        return " ".join(outcome.error.split()) or "an error without a message"
    ratio = f"{outcome.ratio:.3g} times what rounding allows, {outcome.limit:g} is the limit"
    far = ratio if math.isfinite(outcome.ratio) else "not finite, or of a wrong shape or dtype"
    # The stage stands before the array's name, except at kinks; the entry of a scalar is [].
    where = outcome.where.removeprefix(f"{outcome.stage}: ").removesuffix("[]")
    return f"departs at {outcome.stage}, {where}: {far}"
