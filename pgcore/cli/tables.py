"""Tables of the registrations, as text or JSON; neither needs NumPy or typer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable

from pgcore.registry.registry import Registration, registry

__all__ = ["print_registrations"]


def print_registrations(kinds: Iterable[str], *, as_json: bool) -> None:
    """Print what is registered of some kinds, and a note on each quarantined plugin to stderr.

    Args:
        kinds: Any of `KINDS`.
        as_json: Print one JSON object of lists by kind instead of tables.

    Raises:
        UnknownNameError: there is no such kind.
    """
    listing = {kind: registry().providers(kind) for kind in kinds}
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
