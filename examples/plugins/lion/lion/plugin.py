"""Registers the optimizer and its proof; `pgcore list` imports this module, and nothing heavy."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_optimizers", "pgcore_proofs"]


@hookimpl
def pgcore_optimizers() -> list[Provider]:
    """Provide the optimizer under its name, with a line for `pgcore list`."""
    return [Provider("lion", "lion.optimizer:Lion", "steps of one size along a momentum's signs")]


@hookimpl
def pgcore_proofs() -> list[Provider]:
    """Provide the options that `pgcore check` tries."""
    return [Provider("lion", "lion.proof:PROOF", "without and with weight decay")]
