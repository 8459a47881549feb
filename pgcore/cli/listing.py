"""`pgcore list`: everything registered, from which distribution, usable or why not."""

from __future__ import annotations

from typing import Annotated

import typer

from pgcore.cli.tables import print_registrations
from pgcore.registry.entry_points import KINDS

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
    print_registrations(kinds or KINDS, as_json=as_json)
