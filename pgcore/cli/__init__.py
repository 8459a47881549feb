"""The command line: `pgcore list`, `pgcore doctor`, and the commands that plugins provide."""

from __future__ import annotations

from pgcore.cli.app import main

__all__ = ["main"]
