"""Registers the head and its proof; `pgcore list` imports this module, so it imports nothing heavy."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_heads", "pgcore_proofs"]


@hookimpl
def pgcore_heads() -> list[Provider]:
    """Provide the head under its name, with a line for `pgcore list`."""
    summary = "independent double exponential distributions"
    return [Provider("laplace", "laplace.head:Laplace", summary)]


@hookimpl
def pgcore_proofs() -> list[Provider]:
    """Provide the options that `pgcore check` tries."""
    return [Provider("laplace", "laplace.proof:PROOF", "one and two action dimensions")]
