"""Options to try of the advantages that no preset has; their definition is the reference."""

from __future__ import annotations

from typing import Any

from pgcore_check.proof import Proof
from pgcore_estimators.policy_gradient import PolicyGradient

__all__ = ["PROOFS"]

# All variants have two rewards, so that one extra serves them.
VARIANTS: dict[str, dict[str, Any]] = {
    "n-step of a ratio": {"advantage": {"name": "n_step", "n": 3}, "objective": "ratio"},
    "td advantage": {"advantage": "td", "objective": "score"},
    "vtrace mixed": {
        "advantage": {
            "name": "vtrace",
            "trace_lambda": 0.8,
            "pg_rho_bar": 1.3,
            "bootstrap": "mixed",
        },
        "objective": "score",
        "normalise": "batch",
    },
    "several rewards": {
        "advantage": {"name": "several_rewards", "first": "normalise", "rows": "step"},
        "critic": None,
    },
    "given advantages": {"advantage": "given"},
}
PROOFS = (Proof(PolicyGradient, VARIANTS),)
