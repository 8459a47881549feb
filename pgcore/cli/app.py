"""The application: pgcore's own commands, and those of plugins, each imported on request."""

from __future__ import annotations

import sys
from typing import Any

import typer

from pgcore.cli.doctor import doctor_command
from pgcore.cli.listing import list_command
from pgcore.cli.plugins import HELP
from pgcore.registry.registry import OWN_COMMANDS, registry

__all__ = ["application"]


def application(requested: str | None) -> typer.Typer:
    """Return the application: the requested command, and the names and summaries of the others.

    Raises:
        PgcoreError: the requested command is a plugin's and cannot be loaded.
    """
    app = typer.Typer(
        help="Policy-gradient estimators on every framework.",
        epilog=HELP,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # Summaries hold brackets, as in [B] and pgcore[torch].
        pretty_exceptions_enable=False,  # A foreign error is shown as Python shows it.
    )
    app.command("list", epilog=HELP)(list_command)
    app.command("doctor", epilog=HELP)(doctor_command)
    summaries = {
        row.provider.name: row.provider.summary
        for row in registry().providers("commands")
        # Loading a disabled one that is requested names the variable.
        if row.status != "disabled" or row.provider.name == requested
    }
    for name, summary in summaries.items():
        if name == requested:
            command: Any = registry().load("commands", name)
            app.command(name, epilog=HELP)(command)
        else:
            # Name and summary alone, so that showing them in the help imports no plugin's code.
            app.command(name, help=summary)(lambda: None)
    # An unknown command may be a quarantined plugin's.
    note = registry().note_on_quarantined("commands")
    if note and requested not in (*summaries, *OWN_COMMANDS, None):
        sys.stderr.write(f"note: {note}\n")
    return app
