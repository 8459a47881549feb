"""`pgcore list`: what is registered, from which distribution, usable or why not."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: kind to a list of what provides it.")
    ] = False,
) -> None:
    """List what is registered, from which distribution, usable or why not; imports no framework."""
    listing = {kind: registry().providers(kind) for kind in kinds or KINDS}
    if as_json:
        rows = {
            kind: [row_of(registration) for registration in found]
            for kind, found in listing.items()
        }
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        print_tables(listing)
    for plugin in registry().quarantined:
        sys.stderr.write(
            f"note: {plugin.entry_point} ({plugin.distribution} {plugin.version}) is quarantined; see `pgcore doctor`\n"
        )


def row_of(registration: Registration) -> dict[str, str | None]:
    """Return a registration as the JSON listing shows it."""
    return {
        **{
            name: value
            for name, value in asdict(registration.provider).items()
            if name != "distributions"
        },
        "distribution": registration.distribution,
        "version": registration.version,
        "status": registration.status,
        "reason": registration.reason,
    }


def print_tables(listing: dict[str, list[Registration]]) -> None:
    """Print one table a kind, kinds that nothing provides left out."""
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
        for registration in registrations:
            status = registration.status + (
                f": {registration.reason}" if registration.reason else ""
            )
            source = f"{registration.distribution} {registration.version}"
            table.add_row(registration.provider.name, status, source, registration.provider.summary)
        console.print(table)
        console.print()
