"""`pgcore audit`: how biased and how noisy is an estimator, exactly, and is it what it claims to be?"""

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
from pgcore.errors import PgcoreError

if TYPE_CHECKING:
    from pgcore.interfaces.estimator import Estimator
    from pgcore_exact.audit import Row

__all__ = ["audit_command", "subjects"]

# How a verdict stands in the table of all estimators, after what is claimed.
MARKS = {"confirmed": "", "refuted": " !", "open": " ?", "reported": " -"}


def audit_command(
    estimator: Annotated[
        str | None, typer.Argument(help="A registered name; none with --all.", show_default=False)
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
    """Compute an estimator's exact bias and variance, and confirm or refute its claims; exit status 1 when one is refuted.

    The estimator runs on every episode of a small random process, and where it mixes episodes on every batch of them: nothing is sampled.
    The discount is 1 unless `--set gamma=...` says otherwise; then the objective is discounted too.
    """
    if every == (estimator is not None):
        raise typer.BadParameter(
            "expected an estimator's name or --all, got both or neither; choose one"
        )
    if every and settings:
        raise typer.BadParameter(
            "--set: expected it with one estimator, got --all; name the estimator"
        )
    if picture is not None:
        check_picture(picture, every=every)
    from pgcore_exact.audit import audit_process

    mdp = audit_process(states, actions, horizon, seed)
    if time_in_state:
        mdp = mdp.with_time()
    chosen = subjects() if every else {str(estimator): one_subject(str(estimator), settings or [])}
    rows = [unaudited(where, why) for where, why in unbuilt().items()] if every else []
    with progress("auditing", len(chosen), started=-1) as advance:
        for label, subject in chosen.items():
            advance(label)
            rows.append(audited(label, subject, mdp, batch, seed, forgiving=every))
    process = f"random process of {states} states (1 terminal), {actions} actions, horizon {horizon}, seed {seed}"
    process += ", time in the state" if time_in_state else ""
    sys.stdout.write(
        json_of(rows, process)
        if as_json
        else table_of(rows, process)
        if every
        else report_of(rows[0], process)
    )
    sys.stdout.flush()
    if picture is not None:
        from pgcore.data.files import replace
        from pgcore_exact.picture import draw

        replace(picture, draw(rows, picture.suffix[1:].lower()))
    if any(row.refuted for row in rows):
        raise typer.Exit(1)


def check_picture(picture: Path, *, every: bool) -> None:
    """Raise where no picture can be drawn, before anything is run."""
    if not every:
        raise typer.BadParameter(
            "--picture: expected --all, got one estimator; a single point is no picture"
        )
    if picture.suffix.lower() not in (".png", ".svg"):
        raise typer.BadParameter(
            f"--picture: expected a name that ends in .png or .svg, got {picture}; rename it"
        )
    refuse_no_place(picture, "--picture")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise typer.BadParameter(
            "--picture: expected matplotlib, got none; pip install 'pgcore[plot]'"
        )


def one_subject(name: str, settings: Sequence[str]) -> Estimator:
    """Return the estimator with its settings, and a discount of 1 unless they say otherwise."""
    from pgcore.api import estimator
    from pgcore.cli.assignments import read_assignments, without_none
    from pgcore.registry.registry import registry

    cls = cast("Any", registry().load("estimators", name))
    fields = without_none(cls, read_assignments(settings))
    known = [field.name for field in dataclasses.fields(cls)]
    return estimator(name, **(({"gamma": 1.0} if "gamma" in known else {}) | fields))


def subjects() -> dict[str, Estimator]:
    """Return every registered estimator by default and the kit's variants, at discount 1 and without entropy bonuses, by label."""
    from pgcore_check.proofs import variants

    subjects: dict[str, Estimator] = {}
    tried = variants("estimators")
    for name, default in defaults()[0].items():
        subjects[name] = plain(default)
        for label, variant in tried.items():
            if variant.name == name and plain(variant) not in subjects.values():
                longer = f"{name}, {'variant' if label == name else label}"
                subjects[label if name in label and label not in subjects else longer] = plain(
                    variant
                )
    return subjects


def unaudited(label: str, why: str) -> Row:
    """Return the row of an estimator that there is no audit of, or of a proof that is broken."""
    from pgcore_exact.audit import Row

    return Row(label, None, " ".join(why.split()))


def unbuilt() -> dict[str, str]:
    """Return the proofs that are broken and the estimators that cannot be built by default, each with the reason."""
    from pgcore_check.proofs import proofs

    return proofs().problems | {f"estimator {name!r}": why for name, why in defaults()[1].items()}


def defaults() -> tuple[dict[str, Estimator], dict[str, str]]:
    """Return every registered estimator as it is by default, by name; and why others cannot be built."""
    from pgcore.registry.registry import registry
    from pgcore_check.proofs import message_of

    built: dict[str, Estimator] = {}
    refused: dict[str, str] = {}
    for name in registry().names("estimators"):
        try:
            built[name] = one_subject(name, [])
        except Exception as problem:  # noqa: BLE001 - a plugin's code may raise anything, and the others are audited
            refused[name] = message_of(problem)
    return built, refused


def plain(estimator: Estimator) -> Estimator:
    """Return the estimator with discount 1 and no entropy bonus, where it has these: what is compared has one objective."""
    wanted = {"gamma": 1.0, "entropy_coefficient": 0.0}
    fields = cast(
        "Any", estimator
    )  # every estimator is a dataclass, which its base class cannot say
    names = {field.name for field in dataclasses.fields(fields)}
    return dataclasses.replace(
        fields, **{name: value for name, value in wanted.items() if name in names}
    )


def audited(
    label: str, subject: Estimator, mdp: Any, batch: int, seed: int, *, forgiving: bool
) -> Row:
    """Return one row; where there are others, what stops an audit is told in the row."""
    from pgcore_exact.audit import Row, audit

    try:
        return Row(label, audit(subject, mdp, batch=batch, seed=seed))
    except PgcoreError as error:
        if not forgiving:
            raise
        told = "; ".join([str(error), *getattr(error, "__notes__", ())])
        return unaudited(label, told)


def json_of(rows: Sequence[Row], process: str) -> str:
    """Return everything as JSON, null for what is not finite."""
    found: list[dict[str, Any]] = []
    for row in rows:
        figures: dict[str, Any] = {}
        if row.audit is not None:
            names = [
                field.name
                for field in dataclasses.fields(row.audit)
                if field.name not in ("estimator", "verdicts")
            ]
            figures = {name: getattr(row.audit, name) for name in names}
            figures = {
                name: None if isinstance(value, float) and not math.isfinite(value) else value
                for name, value in figures.items()
            }
            figures |= {
                "estimator": repr(row.audit.estimator),
                "verdicts": [dataclasses.asdict(each) for each in row.audit.verdicts],
            }
        found.append({"label": row.label, "refuted": row.refuted, "error": row.error, **figures})
    return json.dumps({"process": process, "audits": found}, indent=1, allow_nan=False) + "\n"


def report_of(row: Row, process: str) -> str:
    """Return what there is to say of one estimator."""
    audit = row.audit
    assert audit is not None
    episodes = f"batches of {audit.batch} episodes" if audit.batch > 1 else "single episodes"
    how = (
        f"on all {audit.runs:,} {episodes}"
        if audit.coupled or audit.batch == 1
        else f"on all {audit.runs:,} episodes, of which batches of {audit.batch} are means"
    )
    state = (
        ""
        if getattr(audit.estimator, "gamma", 1.0) == 1.0
        else f", the state {'' if audit.discount_state else 'not '}discounted"
    )
    lines = [
        f"{audit.estimator}",
        f"{process}; policy: {audit.policy}",
        f"run {how}, in {audit.seconds:.1f} s",
        "",
        f"exact gradient      norm {audit.exact:.6g}{state}",
        f"bias                norm {audit.bias:.6g}, relative {audit.relative:.3g}",
        f"expected gradient   cosine {audit.cosine:.6f} with the exact one, {audit.scale:.6g} times as long along it",
        f"total variance      {audit.variance:.6g}",
        "",
    ]
    width = max(len(verdict.claim) for verdict in audit.verdicts)
    lines += [
        f"{verdict.claim:<{width}}  {word(verdict.stated):<7}  {verdict.verdict:<9}  {verdict.figure}"
        for verdict in audit.verdicts
    ]
    if any(verdict.verdict == "open" for verdict in audit.verdicts):
        lines += ["", "open: this process does not tell; another may"]
    return "\n".join(lines) + "\n"


def table_of(rows: Sequence[Row], process: str) -> str:
    """Return the table of all estimators, what is refuted, and the verdict."""
    from rich.console import Console
    from rich.table import Table

    audits = [row.audit for row in rows if row.audit is not None]
    reference = next(
        (row.audit.variance for row in rows if row.audit is not None and row.label == "reinforce"),
        math.nan,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("estimator")
    claims = [verdict.claim for verdict in audits[0].verdicts] if audits else []
    for heading in (
        "relative\nbias",
        "cosine",
        "scale",
        "variance",
        "relative to\nreinforce",
        *(claim.replace("_", "\n") for claim in claims),
    ):
        table.add_column(heading, justify="right")
    for row in rows:
        if row.audit is None:
            table.add_row(row.label, "error")
            continue
        audit = row.audit
        bias = "0" if audit.relative < 1e-12 else f"{audit.relative:.3g}"
        figures = (
            bias,
            f"{audit.cosine:.4f}",
            f"{audit.scale:.3g}",
            f"{audit.variance:.3g}",
            f"{audit.variance / reference:.3g}",
        )
        table.add_row(
            row.label,
            *figures,
            *(word(verdict.stated) + MARKS[verdict.verdict] for verdict in audit.verdicts),
        )
    console = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 10_000)
    with console.capture() as capture:
        console.print(f"{process}\n")
        console.print(table)
        console.print()
    return capture.get() + "".join(f"{line}\n" for line in remarks(rows))


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return the refuted claims and the verdict, one a line."""
    lines: list[str] = []
    for row in rows:
        if row.audit is None:
            lines.append(f"{row.label}: {row.error}")
            continue
        lines += [
            f"{row.label}: {verdict.claim}={verdict.stated} is refuted: {verdict.figure}"
            for verdict in row.audit.verdicts
            if verdict.verdict == "refuted"
        ]
    audits = [row.audit for row in rows if row.audit is not None]
    counts = Counter(verdict.verdict for audit in audits for verdict in audit.verdicts)
    bad = f"{len(lines)} refuted (!) or not to be audited" if lines else "none refuted"
    lines.append(
        f"{counts.total()} claims of {len(rows)} estimators: {bad}, {counts['open']} open (? this process does not tell), "
        f"{counts['reported']} reported (- judged by nothing); {sum(audit.seconds for audit in audits):.0f} s"
    )
    return lines


def word(stated: bool | str) -> str:  # noqa: FBT001 - the claim itself
    """Return a claim as a word."""
    return stated if isinstance(stated, str) else "yes" if stated else "no"
