"""The command `pgcore check`: every estimator on every backend, compared with the reference."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

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
            help="Names, separated by commas; each must be usable. All usable ones by default.",
            show_default=False,
        ),
    ] = None,
    estimators: Annotated[
        str | None, typer.Option(help="Names; all by default.", show_default=False)
    ] = None,
    heads: Annotated[
        str | None, typer.Option(help="Names; all by default.", show_default=False)
    ] = None,
    optimizers: Annotated[
        str | None,
        typer.Option(
            help="Names of those with an update formula; all by default.", show_default=False
        ),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[ESTIMATOR.]FIELD=VALUE",
            help="A hyper-parameter to try in place of the usual ones; repeatable.",
            show_default=False,
        ),
    ] = None,
    case: Annotated[
        str | None,
        typer.Option(
            help="The label of one case, as a disagreement shows it. All cases by default.",
            show_default=False,
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="A few cases that contain everything once, each backend in its usual mode.",
        ),
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Every combination of cases; takes hours.")
    ] = False,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of processes; by default one for each core, and at most 4.",
            show_default=False,
        ),
    ] = min(os.cpu_count() or 1, 4),
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: every outcome, and the absent backends.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(help="Also write one self-contained HTML page.", show_default=False),
    ] = None,
) -> None:
    """Compare every estimator on every backend with the reference, stage by stage.

    Errors are in units of the rounding-error bound, u e; 4 is the limit. By default every pair of
    two among estimator, head, network, critic, dtype and optimizer occurs, on random, extreme and
    kink cases; where estimators or heads are named, every pair with one of those. The exit status
    is 1 when any case disagrees.
    """
    if quick and full:
        raise typer.BadParameter("expected --quick or --full, got both; choose one")
    if html is not None:
        refuse_no_place(html, "--html")
    # Imported here: the kit and the plan load the frameworks, which --help does not need.
    from pgcore_check.conformance import narrowed, plan, run
    from pgcore_check.outcomes import OF_HEADS, notes
    from pgcore_check.text import json_of, text_of, unchecked_lines

    start = time.perf_counter()
    work = plan(
        backends=names(backends),
        estimators=names(estimators),
        heads=names(heads),
        extent="quick" if quick else "full" if full else "standard",
        optimizers=names(optimizers),
        settings=settings_of(assignments or [], names(estimators)),
    )
    if case is not None:
        work = narrowed(work, case)
    by_part: dict[int, list[Outcome]] = {}
    with progress("checking", len(work.parts)) as advance:
        for part, part_outcomes in zip(work.parts, run(work, processes), strict=True):
            by_part[part.number] = part_outcomes
            advance(part_outcomes[-1].label)
    outcomes = [outcome for number in sorted(by_part) for outcome in by_part[number]]
    work = dataclasses.replace(work, unchecked=work.unchecked | notes(outcomes))
    outcomes = [outcome for outcome in outcomes if not outcome.unchecked]
    seconds = time.perf_counter() - start
    # Printed first: results of hours are not lost where the page cannot be written.
    report = json_of if as_json else text_of
    sys.stdout.write(report(outcomes, work, seconds))
    sys.stdout.flush()
    if html is not None:
        from pgcore.data.files import replace
        from pgcore_check.page import check_page

        page = check_page(outcomes, work.absent, seconds, [*unchecked_lines(work)])
        replace(html, page.encode())
    # What a head has alone is no comparison of the estimators or heads that were asked for.
    compared = case is not None or not {outcome.fixture for outcome in outcomes} <= OF_HEADS
    requested = {"estimator": estimators, "head": heads}
    absent = [
        f"{noun} {name!r}"
        for noun, text in requested.items()
        for name in names(text) or ()
        if f"{noun} {name!r}" in work.unchecked
    ]
    if not compared:
        sys.stderr.write("error: check: expected an estimator that fits a head, got none\n")
    if absent or not compared or not all(outcome.agrees for outcome in outcomes):
        raise typer.Exit(1)


def names(text: str | None) -> list[str] | None:
    """Return the names in a list separated by commas; None for None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def settings_of(
    assignments: Sequence[str], estimators: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """Return the hyper-parameters of `--set` by estimator and field.

    Args:
        assignments: The text after each.
        estimators: The names of `--estimators`, or None.
    """
    from pgcore.cli.assignments import read_assignments, without_none
    from pgcore.registry.registry import registry

    settings: dict[str, dict[str, Any]] = {}
    form, example = "[estimator.]field=value", "ppo.clip=0.1"
    only = estimators[0] if estimators is not None and len(estimators) == 1 else ""
    for place, value in read_assignments(assignments, form=form, example=example).items():
        estimator, _, field = place.rpartition(".")
        estimator = estimator or only
        if not estimator or estimator not in (estimators or [estimator]):
            raise typer.BadParameter(
                f"--set: expected a field of one of --estimators, got {place!r}; "
                "write ESTIMATOR.FIELD, or name a single estimator"
            )
        settings.setdefault(estimator, {})[field] = value
    return {
        name: without_none(cast("type", registry().load("estimators", name)), fields)
        for name, fields in settings.items()
    }
