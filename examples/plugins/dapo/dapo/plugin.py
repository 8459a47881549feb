"""Registers the estimator; `pgcore list` imports this module, so it imports nothing heavy."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_estimators"]


@hookimpl
def pgcore_estimators() -> list[Provider]:
    """Provide the estimator under its name, with a line for `pgcore list`."""
    summary = "group-relative, clipped on two sides, with a penalty of long answers"
    return [Provider("dapo", "dapo.estimator:DAPO", summary)]
