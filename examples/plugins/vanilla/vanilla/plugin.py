"""Registers the estimator; `pgcore list` imports this module, so it imports nothing heavy."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_estimators"]


@hookimpl
def pgcore_estimators() -> list[Provider]:
    """Provide the estimator under its name, with a line for `pgcore list`."""
    return [Provider("vanilla", "vanilla.estimator:Vanilla", "scores times returns to go")]
