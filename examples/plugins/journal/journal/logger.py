"""The text: a title, a table with a row an update, a last line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

__all__ = ["closing", "line", "opening"]

# The metrics in the table's columns; see `pgcore_after_update` in pgcore/hooks.py.
COLUMNS = ("steps", "mean_return", "loss", "gradient_norm")


def opening(settings: Mapping[str, Any]) -> str:
    """Return the title and the table's head."""
    title = "{estimator.name} on {environment.name}, {run.backend}, seed {run.seed}"
    # Settings have dots in their names, which `format` would take for attributes.
    for name, value in settings.items():
        title = title.replace(f"{{{name}}}", str(value))
    return f"# {title}\n\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}\n"


def line(metrics: Mapping[str, float]) -> str:
    """Return the row of one update; a metric that it lacks is nan."""
    cells = [f"{metrics.get(name, math.nan):.6g}" for name in COLUMNS]
    return f"| {' | '.join(cells)} |\n"


def closing(summary: Mapping[str, Any], error: BaseException | None) -> str:
    """Return the last line."""
    reason = summary["ending"] if error is None else f"{type(error).__name__}: {error}"
    return f"\nEnded by {reason} after {summary['steps']:,} steps.\n"
