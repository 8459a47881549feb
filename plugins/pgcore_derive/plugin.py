"""Registers the command `pgcore derive`, the function `pgcore.derive` and the deriver."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_commands", "pgcore_derivers", "pgcore_functions"]


@hookimpl
def pgcore_commands() -> list[Provider]:
    """Provide `pgcore derive`."""
    return [
        Provider(
            "derive",
            "pgcore_derive.command:derive_command",
            "differentiate an estimator's surrogate symbolically and print the closed forms",
        )
    ]


@hookimpl
def pgcore_derivers() -> list[Provider]:
    """Provide derivation by SymPy."""
    derive = "pgcore_derive.derivation:derive"
    return [Provider("sympy", derive, "cotangents from a surrogate, by SymPy", "sympy", "derive")]


@hookimpl
def pgcore_functions() -> list[Provider]:
    """Provide the function, and the class of its result."""
    return [
        Provider("derive", "pgcore_derive.derivation:derive", "cotangents from a surrogate"),
        Provider("Derivation", "pgcore_derive.derivation:Derivation", "the result of `derive`"),
    ]
