"""Registers the command `pgcore new`."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_commands"]


@hookimpl
def pgcore_commands() -> list[Provider]:
    """Provide the command."""
    summary = "write a plugin project that installs and passes its tests"
    return [Provider("new", "pgcore_new.command:new_command", summary)]
