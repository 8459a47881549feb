"""Registers the commands `pgcore train` and `pgcore gradient`."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_commands"]


@hookimpl
def pgcore_commands() -> list[Provider]:
    """Provide the commands."""
    return [
        Provider("train", "pgcore_train.cli:train", "train a policy on a Gymnasium environment"),
        Provider(
            "gradient",
            "pgcore_train.divergence.cli:gradient",
            "loss and gradient norms of a saved policy on a saved batch",
        ),
    ]
