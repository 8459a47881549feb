"""The kinds of objects that have proofs, and the formulas of each."""

from __future__ import annotations

from typing import Any

from pgcore.errors import PgcoreError, PluginError
from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.optimizer import Rule
from pgcore.interfaces.reduction import Reduction
from pgcore.parts import (
    Advantage,
    Correction,
    CriticLoss,
    Level,
    Mask,
    Objective,
    Part,
    Penalty,
)

__all__ = ["ADVICE", "FORMULAS", "PARTS", "PART_KINDS", "kind_of", "message_of", "with_properties"]

# By kind, the base classes and the methods that a reference implementation replaces. A subclass
# that overrides one of them has other formulas, and needs another reference implementation.
FORMULAS: dict[str, tuple[tuple[type[Any], ...], tuple[str, ...]]] = {
    "estimators": (
        (Estimator,),
        ("signals", "surrogate", "finalise", "differentiate", "combine", "compose"),
    ),
    "heads": (
        (Head,),
        ("initial_parameters", "distribution", "log_prob", "log_probs", "entropy", "kl", "fisher"),
    ),
    "optimizers": ((OptimizerSpec, Rule), ("scalars", "update")),
    "reductions": ((Reduction,), ("weights",)),
}

# The noun of each kind of parts, which are tried in estimators, and the name of all kinds together.
PART_KINDS = {
    base.registered_as: base.noun
    for base in (Advantage, Objective, Level, Correction, Penalty, Mask, CriticLoss)
}
PARTS = "parts"

# By kind, the properties that choosing cases reads.
PROPERTIES = {"estimators": ("claims", "quantities"), "heads": ("outputs", "width", "quantities")}

# The remedy for a class that cannot be built without options.
ADVICE = "give defaults, or a Proof with variants by the hook pgcore_proofs"


def kind_of(cls: object) -> str:
    """Return the kind of a class.

    Raises:
        PluginError: it is no class of an estimator, a head, an optimizer, a reduction or a part.
    """
    by_kind: dict[str, tuple[type[Any], ...]] = {kind: row[0] for kind, row in FORMULAS.items()}
    for kind, bases in (by_kind | {PARTS: (Part,)}).items():
        if isinstance(cls, type) and issubclass(cls, bases):
            return kind
    raise PluginError(
        "Proof.of: expected the class of an estimator, head, optimizer, reduction or part, "
        f"got {cls!r}; name a class"
    )


def with_properties(kind: str, made: Any) -> Any:
    """Return an object whose properties have been read once: a stranger's may raise anything."""
    for attribute in PROPERTIES.get(kind, ()):
        getattr(made, attribute)
    return made


def message_of(problem: Exception) -> str:
    """Return an error's message, with its type where it is not pgcore's."""
    return (
        str(problem) if isinstance(problem, PgcoreError) else f"{type(problem).__name__}: {problem}"
    )
