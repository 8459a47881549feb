"""The command line: `pgcore list`, `pgcore doctor`, and the commands that plugins provide."""

from pgcore.cli.entry import main

__all__ = ["main"]
