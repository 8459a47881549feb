"""Registers the part and its proof; `pgcore list` imports this module, so it imports nothing heavy."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_objectives", "pgcore_proofs"]


@hookimpl
def pgcore_objectives() -> list[Provider]:
    """Provide the objective under its name, with a line for `pgcore list`."""
    summary = "advantage times ratio, less a quadratic penalty of the ratio"
    return [Provider("spo", "spo.part:Spo", summary)]


@hookimpl
def pgcore_proofs() -> list[Provider]:
    """Provide the estimators that `pgcore check` tries."""
    return [Provider("spo", "spo.proof:PROOF", "single steps and whole sequences")]
