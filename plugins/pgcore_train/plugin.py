"""Registers the command `pgcore train`."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_commands"]


@hookimpl
def pgcore_commands() -> list[Provider]:
    """Provide the command."""
    return [
        Provider("train", "pgcore_train.cli:train", "train a policy on a Gymnasium environment")
    ]
