"""Registers the built-in optimizers and the schedules that change a rate."""

from __future__ import annotations

from pgcore.hooks import Provider, hookimpl

__all__ = ["pgcore_functions", "pgcore_optimizers", "pgcore_proofs", "pgcore_schedules"]

SCHEDULES = "pgcore_optimizers.schedules"

# Name, module:class in this package, and a summary for `pgcore list`.
OPTIMIZERS = (
    ("sgd", "first_order:SGD", "gradient descent, momentum, Nesterov"),
    ("adam", "first_order:Adam", "Adam, epsilon outside the root after bias correction"),
    ("adamw", "first_order:AdamW", "Adam with decoupled weight decay"),
    ("rmsprop", "first_order:RMSprop", "RMSprop, epsilon outside or inside the root"),
    (
        "natural_gradient",
        "natural_gradient:NaturalGradient",
        "conjugate gradients on Fisher-vector products, damped",
    ),
    (
        "trpo",
        "natural_gradient:TRPO",
        "the longest natural-gradient step in a KL ball, line search",
    ),
    (
        "trust_region",
        "natural_gradient:EuclideanTrustRegion",
        "steps of one Euclidean length",
    ),
)


@hookimpl
def pgcore_optimizers() -> list[Provider]:
    """Provide the optimizers."""
    return [
        Provider(name, f"pgcore_optimizers.{target}", summary)
        for name, target, summary in OPTIMIZERS
    ]


@hookimpl
def pgcore_schedules() -> list[Provider]:
    """Provide the schedules, for `pgcore train` to name them."""
    return [
        Provider(
            "linear", f"{SCHEDULES}:LinearSchedule", "a straight line from one rate to another"
        ),
        Provider("cosine", f"{SCHEDULES}:CosineSchedule", "half a cosine from one rate to another"),
    ]


@hookimpl
def pgcore_functions() -> list[Provider]:
    """Provide the schedules' classes."""
    return [
        Provider(name, f"{SCHEDULES}:{name}", "a learning-rate schedule")
        for name in ("CosineSchedule", "LinearSchedule")
    ]


@hookimpl
def pgcore_proofs() -> list[Provider]:
    """Provide the optimizers' proofs."""
    return [Provider("optimizers", "pgcore_optimizers.proofs:PROOFS", "options of each optimizer")]
