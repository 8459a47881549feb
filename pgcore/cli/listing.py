"""`pgcore list`: everything registered, from which distribution, usable or why not."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from pgcore.registry.entry_points import KINDS
from pgcore.registry.registry import Registration, registry

__all__ = ["list_command"]


def list_command(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KIND]...", help=f"Any of: {', '.join(KINDS)}; all by default."),
    ] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print lists by kind as JSON.")] = False,
) -> None:
    """List what is registered, from which distribution, usable or why not; imports no framework."""
    listing = {kind: registry().providers(kind) for kind in kinds or KINDS}
    if as_json:
        rows = {kind: list(map(_row_of, entries)) for kind, entries in listing.items()}
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        _print_tables(listing)
    for plugin in registry().quarantined:
        source = f"{plugin.entry_point} ({plugin.distribution} {plugin.version})"
        sys.stderr.write(f"note: {source} is quarantined; see `pgcore doctor`\n")


def _row_of(registration: Registration) -> dict[str, str | None]:
    """Return a registration as the JSON listing shows it."""
    row = registration.provider._asdict() | registration._asdict()
    del row["provider"], row["distributions"], row["kind"]
    return row


def _print_tables(listing: dict[str, list[Registration]]) -> None:
    """Print one table a kind, or a line for a kind that nothing provides."""
    # JSON output needs no rich, which is slow to import.
    from rich.console import Console
    from rich.table import Table

    # Reasons hold brackets, as in pgcore[torch], that are no markup.
    console = Console(markup=False, highlight=False)
    for kind, registrations in listing.items():
        if not registrations:
            console.print(f"{kind}: none are registered\n")
            continue
        table = Table(title=kind, title_justify="left", box=None, pad_edge=False, expand=False)
        for heading in ("name", "status", "from", "summary"):
            table.add_column(heading, overflow="fold")
        for row in registrations:
            status = f"{row.status}: {row.reason}" if row.reason else row.status
            source = f"{row.distribution} {row.version}"
            table.add_row(row.provider.name, status, source, row.provider.summary)
        console.print(table, "")
