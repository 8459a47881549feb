"""`pgcore check`: every estimator on every backend beside the reference."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgcore.cli.places import refuse_no_place
from pgcore.cli.progress import progress

if TYPE_CHECKING:
    from pgcore_check.conformance import Outcome

__all__ = ["check_command"]


def check_command(
    *,
    backends: Annotated[
        str | None,
        typer.Option(
            help="Names, comma between; each must be usable. All usable ones by default.",
            show_default=False,
        ),
    ] = None,
    estimators: Annotated[
        str | None, typer.Option(help="Names; all by default.", show_default=False)
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Names; all by default.", show_default=False)
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A few cases, in which everything occurs, each backend in its usual mode.",
        ),
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="The whole product of cases; hours.")
    ] = False,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="How many share the work; one for each core, and at most 4, by default.",
            show_default=False,
        ),
    ] = min(os.cpu_count() or 1, 4),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: every outcome, and what is absent.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write one self-contained page to look at.", show_default=False),
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
    from pgcore_check.conformance import plan, run
    from pgcore_check.text import json_of, text_of, unchecked_lines

    start = time.perf_counter()
    chosen = plan(
        backends=names(backends),
        estimators=names(estimators),
        heads=names(heads),
        extent="quick" if quick else "full" if full else "standard",
    )
    outcomes: list[Outcome] = []
    with progress("checking", len(chosen.parts)) as advance:
        for found in run(chosen, processes):
            outcomes += found
            advance(found[-1].label)
    seconds = time.perf_counter() - start
    # First, so that what took hours is not lost where the page cannot be written.
    sys.stdout.write(
        json_of(outcomes, chosen, seconds) if as_json else text_of(outcomes, chosen, seconds)
    )
    sys.stdout.flush()
    if html is not None:
        from pgcore.data.files import replace
        from pgcore_check.page import check_page

        replace(
            html, check_page(outcomes, chosen.absent, seconds, [*unchecked_lines(chosen)]).encode()
        )
    if not outcomes or not all(outcome.agrees for outcome in outcomes):
        raise typer.Exit(1)


def names(given: str | None) -> list[str] | None:
    """Return the names of a comma list, or None where there is no list."""
    return None if given is None else [name.strip() for name in given.split(",") if name.strip()]
