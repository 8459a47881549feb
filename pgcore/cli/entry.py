"""The command `pgcore`: this process's arguments to one command."""

from __future__ import annotations

import os
import sys

from pgcore.cli.plugins import load_plugins, take_plugins
from pgcore.cli.tables import print_registrations
from pgcore.errors import PgcoreError
from pgcore.registry.entry_points import KINDS

__all__ = ["main"]


def main() -> None:
    """Run `pgcore` on this process's arguments; its own errors are one line and exit status 2."""
    try:
        variable = os.environ.get("PGCORE_PLUGINS", "")
        words = take_plugins(sys.argv[1:])
        # The application takes no other option with a value, so the first word is the command.
        requested = next((word for word in words if not word.startswith("-")), None)
        # `pgcore doctor` shows the traceback of a plugin that cannot be loaded.
        if requested != "doctor":
            load_plugins(variable)
        if words[:1] == ["list"] and {*KINDS, "--json"}.issuperset(words[1:]):
            # typer takes longer to read a command's parameters than a listing does to print.
            kinds = [word for word in words[1:] if word != "--json"]
            print_registrations(kinds or KINDS, as_json="--json" in words)
            sys.exit()
        from pgcore.cli.app import application

        application(requested)(words, prog_name="pgcore")
    except PgcoreError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
