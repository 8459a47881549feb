"""Registers the command `pgcore check` and the functions of the conformance kit."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_commands", "pgcore_functions", "pgcore_proofs"]


@hookimpl
def pgcore_commands() -> list[Provider]:
    """Provide the command `check`."""
    return [
        Provider(
            "check",
            "pgcore_check.command:check_command",
            "compare every estimator on every backend with the reference, stage by stage",
        )
    ]


@hookimpl
def pgcore_functions() -> list[Provider]:
    """Provide `pg.check`, `pg.compare` and `pg.compare_policies`."""
    return [
        Provider("check", "pgcore_check.compare:check", "compare one policy with the reference"),
        Provider("compare", "pgcore_check.compare:compare", "compare backends with the reference"),
        Provider(
            "compare_policies",
            "pgcore_check.compare:compare_policies",
            "compare two policies that should be equal",
        ),
    ]


@hookimpl
def pgcore_proofs() -> list[Provider]:
    """Provide the proofs of the core's heads and reductions."""
    proofs = "pgcore_check.core_proofs"
    return [
        Provider(
            "categorical", f"{proofs}.discrete:CATEGORICAL", "two temperatures; ties, masks, audits"
        ),
        Provider(
            "diagonal_gaussian",
            f"{proofs}.gaussian:DIAGONAL_GAUSSIAN",
            "each kind of log std; a tiny one",
        ),
        Provider("epsilon_greedy", f"{proofs}.discrete:EPSILON_GREEDY", "action values; audits"),
        Provider("squashed_gaussian", f"{proofs}.gaussian:SQUASHED_GAUSSIAN", "actions far out"),
        Provider(
            "multi_categorical",
            f"{proofs}.discrete:MULTI_CATEGORICAL",
            "two choices of unequal size",
        ),
        Provider("bernoulli", f"{proofs}.discrete:BERNOULLI", "two binary actions"),
        Provider("reductions", f"{proofs}.reductions:REDUCTIONS", "the core's reductions"),
    ]
