"""`pgcore audit`: the exact bias and variance of an estimator, and verdicts on its claims."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from pgcore.cli.places import refuse_no_place
from pgcore.cli.progress import progress

if TYPE_CHECKING:
    from pgcore.interfaces.estimator import Estimator
    from pgcore_exact.audits import Audit, Row
    from pgcore_exact.process.mdp import MDP

__all__ = ["audit_command", "subjects"]

# The mark of a verdict after the claim, in the table of all estimators.
MARKS = {"confirmed": "", "refuted": " !", "open": " ?", "reported": " -"}


def audit_command(
    estimator: Annotated[
        str | None,
        typer.Argument(
            help="A registered name; none with --all or --penalties.", show_default=False
        ),
    ] = None,
    *,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE",
            help="A hyper-parameter; may be repeated.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every registered estimator, with its notable variants.")
    ] = False,
    penalties: Annotated[
        bool,
        typer.Option(
            "--penalties",
            help="Every registered penalty: is its expected derivative the gradient of a KL?",
        ),
    ] = False,
    states: Annotated[
        int, typer.Option(min=2, help="States of the random process, the terminal one included.")
    ] = 4,
    actions: Annotated[int, typer.Option(min=2, help="Actions.")] = 2,
    horizon: Annotated[int, typer.Option(min=1, help="Largest number of steps of an episode.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of the process and the policy.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Episodes in a batch.")] = 2,
    time_in_state: Annotated[
        bool,
        typer.Option("--time-in-state", help="Show the policy and the critic the time as well."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: every figure.")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(
            help="With --all: also draw bias against variance, PNG or SVG.", show_default=False
        ),
    ] = None,
) -> None:
    """Compute an estimator's exact bias and variance, and confirm or refute its claims.

    The exit status is 1 when a claim is refuted. The estimator runs on every episode of a small
    random process, and where it mixes episodes on every batch of them: nothing is sampled. The
    discount is 1 unless `--set gamma=...` changes it; the objective is then discounted too.
    """
    if [estimator is not None, every, penalties].count(True) != 1:
        raise typer.BadParameter(
            "expected an estimator's name or --all or --penalties, got none or several; choose one"
        )
    if settings and estimator is None:
        raise typer.BadParameter(
            "--set: expected it with one estimator, got --all or --penalties; name the estimator"
        )
    # An audit of all takes minutes: refuse a bad picture before it.
    if picture is not None:
        check_picture(picture, every=every)
    from pgcore_exact.audits import audit_process

    mdp = audit_process(states, actions, horizon, seed)
    if time_in_state:
        mdp = mdp.with_time()
    process = (
        f"random process of {states} states (1 terminal), {actions} actions, "
        f"horizon {horizon}, seed {seed}{', time in the state' if time_in_state else ''}"
    )
    if penalties:
        report_penalties(mdp, seed, process, as_json=as_json)
        return
    name = str(estimator)
    audited = subjects() if every else {name: one_subject(name, settings or [])}
    rows = [error_row(label, reason) for label, reason in unbuilt().items()] if every else []
    with progress("auditing", len(audited), started=-1) as advance:
        for label, subject in audited.items():
            advance(label)
            rows.append(audit_row(label, subject, mdp, batch, seed, forgiving=every))
    write = json_of if as_json else table_of if every else report_of
    sys.stdout.write(write(rows, process))
    # The figures are out before a picture can fail.
    sys.stdout.flush()
    if picture is not None:
        from pgcore.data.files import replace
        from pgcore_exact.picture import draw

        replace(picture, draw(rows, picture.suffix[1:].lower()))
    if any(row.refuted for row in rows):
        raise typer.Exit(1)


def report_penalties(mdp: MDP, seed: int, process: str, *, as_json: bool) -> None:
    """Print the audits of all penalties; the exit status is 1 when a claim is refuted."""
    from pgcore_exact.penalties.report import json_of_penalties, penalty_rows, table_of_penalties

    rows = [*penalty_rows(mdp, seed)]
    sys.stdout.write((json_of_penalties if as_json else table_of_penalties)(rows, process))
    if any(row.refuted for row in rows):
        raise typer.Exit(1)


def check_picture(picture: Path, *, every: bool) -> None:
    """Raise if no picture can be drawn at this path."""
    if not every:
        raise typer.BadParameter(
            "--picture: expected --all, got one estimator; draw more than a single point"
        )
    if picture.suffix.lower() not in (".png", ".svg"):
        raise typer.BadParameter(
            f"--picture: expected a name that ends in .png or .svg, got {picture}; rename it"
        )
    refuse_no_place(picture, "--picture")
    # matplotlib takes long to import, so it is looked for only.
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise typer.BadParameter(
            "--picture: expected matplotlib, got none; pip install 'pgcore[plot]'"
        )


def one_subject(name: str, settings: Sequence[str]) -> Estimator:
    """Return the estimator with its settings, and a discount of 1 unless they set another."""
    from pgcore.api import estimator
    from pgcore.cli.assignments import nested, read_assignments, without_none
    from pgcore.registry.registry import registry

    cls = cast("Any", registry().load("estimators", name))
    fields = without_none(cls, nested(read_assignments(settings)))
    defaults = {"gamma": 1.0} if has_field(cls, "gamma") else {}
    return estimator(name, **(defaults | fields))


def subjects() -> dict[str, Estimator]:
    """Return every registered estimator and the kit's variants by label; see `comparable`."""
    from pgcore_check.proofs import variants

    subjects: dict[str, Estimator] = {}
    candidates = variants("estimators")
    for name, default in built_estimators()[0].items():
        subjects[name] = comparable(default)
        for label, candidate in candidates.items():
            if candidate.name != name:
                continue
            # Without its bonus a variant may equal one before it.
            variant = comparable(candidate)
            if variant in subjects.values():
                continue
            unique = name in label and label not in subjects
            longer = f"{name}, {'variant' if label == name else label}"
            subjects[label if unique else longer] = variant
    return subjects


def error_row(label: str, reason: str) -> Row:
    """Return the row of an estimator without an audit, or of a broken proof."""
    from pgcore_exact.audits import Row

    return Row(label, None, " ".join(reason.split()))


def unbuilt() -> dict[str, str]:
    """Return the broken proofs and the estimators that cannot be built, with the reasons."""
    from pgcore_check.proofs import proofs

    refused = built_estimators()[1]
    return proofs().problems | {f"estimator {name!r}": why for name, why in refused.items()}


def built_estimators() -> tuple[dict[str, Estimator], dict[str, str]]:
    """Return the registered estimators with default settings, and the errors of those that fail."""
    from pgcore.registry.registry import registry
    from pgcore_check.kinds import message_of

    built: dict[str, Estimator] = {}
    refused: dict[str, str] = {}
    for name in registry().names("estimators"):
        try:
            built[name] = one_subject(name, [])
        except Exception as problem:  # noqa: BLE001 - a plugin's code may raise anything
            refused[name] = message_of(problem)
    return built, refused


def comparable(estimator: Estimator) -> Estimator:
    """Return the estimator with discount 1 and no entropy bonus, so that all have one objective."""
    common = {"gamma": 1.0, "entropy_coefficient": 0.0}
    changes = {name: value for name, value in common.items() if has_field(estimator, name)}
    # Every estimator is a dataclass, which the type of its base class does not show.
    return dataclasses.replace(cast("Any", estimator), **changes)


def has_field(estimator: Any, name: str) -> bool:
    """Return whether an estimator or its class has a hyper-parameter."""
    return any(field.name == name for field in dataclasses.fields(estimator))


def audit_row(
    label: str, subject: Estimator, mdp: MDP, batch: int, seed: int, *, forgiving: bool
) -> Row:
    """Return the row of one estimator's audit.

    Args:
        label: Its name in the table.
        subject: The estimator.
        mdp: The process.
        batch: N, episodes in a batch.
        seed: Of the policies.
        forgiving: Whether an error becomes the row; otherwise it is raised.
    """
    from pgcore_check.kinds import message_of
    from pgcore_exact.audits import Row, audit

    try:
        return Row(label, audit(subject, mdp, batch=batch, seed=seed))
    except Exception as error:
        if not forgiving:
            raise
        return error_row(label, "; ".join([message_of(error), *getattr(error, "__notes__", ())]))


def json_of(rows: Sequence[Row], process: str) -> str:
    """Return all rows as JSON, with null for NaN and infinity."""
    audits: list[dict[str, Any]] = []
    for row in rows:
        figures = {} if row.audit is None else figures_of(row.audit)
        audits.append({"label": row.label, "refuted": row.refuted, "error": row.error, **figures})
    return json.dumps({"process": process, "audits": audits}, indent=1, allow_nan=False) + "\n"


def figures_of(audit: Audit) -> dict[str, Any]:
    """Return an audit's fields as JSON has them."""
    figures: dict[str, Any] = {}
    for field in dataclasses.fields(audit):
        value = getattr(audit, field.name)
        infinite = isinstance(value, float) and not math.isfinite(value)
        figures[field.name] = None if infinite else value
    verdicts = [dataclasses.asdict(verdict) for verdict in audit.verdicts]
    return figures | {"estimator": repr(audit.estimator), "verdicts": verdicts}


def report_of(rows: Sequence[Row], process: str) -> str:
    """Return the report on a single estimator, the first row."""
    audit = rows[0].audit
    assert audit is not None
    # Without coupling the batches' moments follow from the episodes'.
    how = f"on all {audit.runs:,} episodes, of which batches of {audit.batch} are means"
    if audit.batch == 1:
        how = f"on all {audit.runs:,} single episodes"
    elif audit.coupled:
        how = f"on all {audit.runs:,} batches of {audit.batch} episodes"
    state = ""
    if getattr(audit.estimator, "gamma", 1.0) != 1.0:
        state = f", the state {'' if audit.discount_state else 'not '}discounted"
    scale = f"{audit.scale:.6g} times as long"
    lines = [
        f"{audit.estimator}",
        f"{process}; policy: {audit.policy}",
        f"run {how}, in {audit.seconds:.1f} s",
        "",
        f"exact gradient      norm {audit.exact:.6g}{state}",
        f"bias                norm {audit.bias:.6g}, relative {audit.relative:.3g}",
        f"expected gradient   cosine {audit.cosine:.6f} with the exact one, {scale} along it",
        f"total variance      {audit.variance:.6g}",
        "",
    ]
    width = max(len(verdict.claim) for verdict in audit.verdicts)
    for verdict in audit.verdicts:
        claim = f"{verdict.claim:<{width}}  {word(verdict.stated):<7}"
        lines.append(f"{claim}  {verdict.verdict:<9}  {verdict.figure}")
    if any(verdict.verdict == "open" for verdict in audit.verdicts):
        lines += ["", "open: this process does not tell; another may"]
    return "\n".join(lines) + "\n"


def table_of(rows: Sequence[Row], process: str) -> str:
    """Return the table of all estimators, then the refuted claims and the verdict."""
    from rich.console import Console
    from rich.table import Table

    audits = {row.label: row.audit for row in rows if row.audit is not None}
    reference = audits["reinforce"].variance if "reinforce" in audits else math.nan
    table = Table(box=None, pad_edge=False)
    table.add_column("estimator")
    headings = ["relative\nbias", "cosine", "scale", "variance", "relative to\nreinforce"]
    if audits:
        first = next(iter(audits.values()))
        headings += [verdict.claim.replace("_", "\n") for verdict in first.verdicts]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        if row.audit is None:
            table.add_row(row.label, "error")
            continue
        audit = row.audit
        # Rounding shows as 0.
        bias = "0" if audit.relative < 1e-12 else f"{audit.relative:.3g}"
        ratio = audit.variance / reference
        figures = (f"{audit.scale:.3g}", f"{audit.variance:.3g}", f"{ratio:.3g}")
        words = (word(verdict.stated) + MARKS[verdict.verdict] for verdict in audit.verdicts)
        table.add_row(row.label, bias, f"{audit.cosine:.4f}", *figures, *words)
    # A file gets whole lines, whatever the terminal's width.
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as capture:
        console.print(f"{process}\n")
        console.print(table)
        console.print()
    return capture.get() + "".join(f"{line}\n" for line in remarks(rows))


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return the refuted claims and the verdict, one a line."""
    lines: list[str] = []
    counts, seconds = Counter[str](), 0.0
    for row in rows:
        if row.audit is None:
            lines.append(f"{row.label}: {row.error}")
            continue
        seconds += row.audit.seconds
        for verdict in row.audit.verdicts:
            counts[verdict.verdict] += 1
            if verdict.verdict == "refuted":
                claim = f"{verdict.claim}={verdict.stated}"
                lines.append(f"{row.label}: {claim} is refuted: {verdict.figure}")
    bad = f"{len(lines)} refuted (!) or not to be audited" if lines else "none refuted"
    lines.append(
        f"{counts.total()} claims of {len(rows)} estimators: {bad}, "
        f"{counts['open']} open (? this process does not tell), "
        f"{counts['reported']} reported (- judged by nothing); {seconds:.0f} s"
    )
    return lines


def word(stated: bool | str) -> str:  # noqa: FBT001 - the claim itself
    """Return a claim as a word."""
    return stated if isinstance(stated, str) else "yes" if stated else "no"
