"""Registers the built-in optimizers."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_optimizers", "pgcore_proofs"]


@hookimpl
def pgcore_optimizers() -> list[Provider]:
    """Provide the optimizers."""
    return [
        Provider(
            "sgd", "pgcore_optimizers.first_order:SGD", "gradient descent, momentum, Nesterov"
        ),
        Provider(
            "adam",
            "pgcore_optimizers.first_order:Adam",
            "Adam, epsilon outside the root after bias correction",
        ),
        Provider(
            "adamw", "pgcore_optimizers.first_order:AdamW", "Adam with decoupled weight decay"
        ),
        Provider(
            "rmsprop",
            "pgcore_optimizers.first_order:RMSprop",
            "RMSprop, epsilon outside or inside the root",
        ),
        Provider(
            "natural_gradient",
            "pgcore_optimizers.natural_gradient:NaturalGradient",
            "conjugate gradients on Fisher-vector products, damped",
        ),
        Provider(
            "trpo",
            "pgcore_optimizers.natural_gradient:TRPO",
            "the longest natural-gradient step in a KL ball, line search",
        ),
        Provider(
            "trust_region",
            "pgcore_optimizers.natural_gradient:EuclideanTrustRegion",
            "steps of one Euclidean length",
        ),
    ]


@hookimpl
def pgcore_proofs() -> list[Provider]:
    """Provide their proofs."""
    return [
        Provider("optimizers", "pgcore_optimizers.proofs:PROOFS", "options of each optimizer"),
    ]
