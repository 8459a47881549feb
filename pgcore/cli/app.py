"""The application: pgcore's own commands, and those of plugins, each imported only when it is asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, cast

import typer

from pgcore.cli.doctor import doctor_command
from pgcore.cli.listing import list_command
from pgcore.errors import PgcoreError
from pgcore.registry.registry import OWN_COMMANDS, registry

__all__ = ["application", "main"]


def main() -> None:
    """Run `pgcore` on the arguments of this process; pgcore's own errors are one line and exit status 2."""
    # The application takes no option with a value, so the first word is the command.
    requested = next((word for word in sys.argv[1:] if not word.startswith("-")), None)
    try:
        application(requested)(prog_name="pgcore")
    except PgcoreError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def application(requested: str | None) -> typer.Typer:
    """Return the application with the requested command imported and every other plugin's command a name and a summary.

    Raises:
        PgcoreError: the requested command is a plugin's and cannot be loaded.
    """
    app = typer.Typer(
        help="Policy-gradient estimators on every framework.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,  # Summaries hold brackets, as in [B] and pgcore[torch], that are no markup.
        pretty_exceptions_enable=False,  # An error that is not pgcore's is shown as Python shows it.
    )
    app.command("list")(list_command)
    app.command("doctor")(doctor_command)
    summaries = {
        registration.provider.name: registration.provider.summary
        for registration in registry().providers("commands")
    }
    for name in summaries.keys() - set(OWN_COMMANDS):
        if name == requested:
            app.command(name)(cast("Callable[..., Any]", registry().load("commands", name)))
        else:
            app.command(name, help=summaries[name])(not_requested)
    if requested not in summaries.keys() | set(OWN_COMMANDS) | {None}:
        warn_of_quarantine()
    return app


def not_requested() -> None:
    """Stand for a command in the help, so that showing it imports no plugin's code."""


def warn_of_quarantine() -> None:
    """Say that a command that nobody knows may be a quarantined plugin's."""
    refused = ", ".join(
        f"{plugin.entry_point} ({plugin.distribution})" for plugin in registry().quarantined
    )
    if refused:
        sys.stderr.write(
            f"note: commands of quarantined plugins are not known: {refused}; see `pgcore doctor`\n"
        )
