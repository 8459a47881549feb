"""Registers the command `pgcore audit`."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_commands"]


@hookimpl
def pgcore_commands() -> list[Provider]:
    """Provide `pgcore audit`."""
    return [
        Provider(
            "audit",
            "pgcore_exact.command:audit_command",
            "compute an estimator's exact bias and variance, and verify its claims",
        )
    ]
