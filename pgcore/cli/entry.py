"""The command `pgcore`: this process's arguments to one command."""

from __future__ import annotations

import sys

from pgcore.cli.tables import print_registrations
from pgcore.errors import PgcoreError
from pgcore.registry.entry_points import KINDS

__all__ = ["main"]


def main() -> None:
    """Run `pgcore` on this process's arguments; its own errors are one line and exit status 2."""
    words = sys.argv[1:]
    try:
        if words[:1] == ["list"] and {*KINDS, "--json"}.issuperset(words[1:]):
            # typer takes longer to read a command's parameters than a listing does to print.
            kinds = [word for word in words[1:] if word != "--json"]
            print_registrations(kinds or KINDS, as_json="--json" in words)
            sys.exit()
        _run_application(words)
    except PgcoreError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)


def _run_application(words: list[str]) -> None:
    """Run the command that typer finds in the words."""
    from pgcore.cli.app import application

    # The application takes no option with a value, so the first word is the command.
    requested = next((word for word in words if not word.startswith("-")), None)
    application(requested)(prog_name="pgcore")
