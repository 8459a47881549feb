"""Registers the built-in heads, networks, activations, optimizers, schedules, metrics and deriver."""

from __future__ import annotations

import inspect

from pgcore.hooks import Provider, hookimpl
from pgcore.metrics import METRICS

__all__ = [
    "pgcore_activations",
    "pgcore_derivers",
    "pgcore_heads",
    "pgcore_metrics",
    "pgcore_networks",
    "pgcore_optimizers",
    "pgcore_proofs",
    "pgcore_schedules",
]


@hookimpl
def pgcore_heads() -> list[Provider]:
    """Provide the core's heads."""
    return [
        Provider("categorical", "pgcore.heads:Categorical", "softmax over n actions with a temperature and masks"),
        Provider(
            "diagonal_gaussian",
            "pgcore.heads:DiagonalGaussian",
            "independent normals; log std fixed, shared or per state",
        ),
        Provider(
            "epsilon_greedy",
            "pgcore.heads:EpsilonGreedy",
            "the action of the largest value, and now and then another",
        ),
        Provider(
            "squashed_gaussian",
            "pgcore.heads:SquashedGaussian",
            "tanh of independent normals: actions within bounds",
        ),
        Provider("multi_categorical", "pgcore.heads:MultiCategorical", "several softmax choices at once, with masks"),
        Provider("bernoulli", "pgcore.heads:Bernoulli", "independent switches, with masks"),
    ]


@hookimpl
def pgcore_networks() -> list[Provider]:
    """Provide the core's networks."""
    return [
        Provider("table", "pgcore.networks:Table", "one row of outputs a discrete state"),
        Provider("linear", "pgcore.networks:Linear", "an affine map of the observations"),
        Provider("mlp", "pgcore.networks:MLP", "fully connected layers with one activation"),
    ]


@hookimpl
def pgcore_activations() -> list[Provider]:
    """Provide the core's activations."""
    return [
        Provider("tanh", "pgcore.activations:Tanh", "hyperbolic tangent"),
        Provider("relu", "pgcore.activations:Relu", "max(x, 0), with derivative 0 at 0"),
        Provider("sigmoid", "pgcore.activations:Sigmoid", "1 / (1 + exp(-x))"),
    ]


@hookimpl
def pgcore_schedules() -> list[Provider]:
    """Provide the core's learning-rate schedules."""
    return [
        Provider("constant", "pgcore.schedules:ConstantSchedule", "the same rate at every step"),
        Provider("linear", "pgcore.schedules:LinearSchedule", "a straight line from one rate to another"),
        Provider("cosine", "pgcore.schedules:CosineSchedule", "half a cosine from one rate to another"),
    ]


@hookimpl
def pgcore_derivers() -> list[Provider]:
    """Provide derivation by SymPy."""
    return [Provider("sympy", "pgcore.derive:derive", "cotangents from a surrogate, by SymPy", "sympy", "derive")]


@hookimpl
def pgcore_optimizers() -> list[Provider]:
    """Provide the core's optimizers."""
    return [
        Provider("sgd", "pgcore.optimizers:SGD", "gradient descent, momentum, Nesterov"),
        Provider("adam", "pgcore.optimizers:Adam", "Adam, epsilon outside the root after bias correction"),
        Provider("adamw", "pgcore.optimizers:AdamW", "Adam with decoupled weight decay"),
        Provider("rmsprop", "pgcore.optimizers:RMSprop", "RMSprop, epsilon outside or inside the root"),
        Provider(
            "natural_gradient",
            "pgcore.trust_regions:NaturalGradient",
            "conjugate gradients on Fisher-vector products, damped",
        ),
        Provider("trpo", "pgcore.trust_regions:TRPO", "the longest natural-gradient step in a KL ball, line search"),
        Provider("trust_region", "pgcore.trust_regions:EuclideanTrustRegion", "steps of one Euclidean length"),
    ]


@hookimpl
def pgcore_metrics() -> list[Provider]:
    """Provide the core's metrics, each with the first line of its docstring."""
    return [
        Provider(name, f"pgcore.metrics:{name}", (inspect.getdoc(function) or "").partition("\n")[0].rstrip("."))
        for name, function in METRICS.items()
    ]


@hookimpl
def pgcore_proofs() -> list[Provider]:
    """Provide the proofs of the core's heads and optimizers."""
    heads = "pgcore.testing.core_proofs"
    return [
        Provider("categorical", f"{heads}.discrete:CATEGORICAL", "two temperatures; ties, masks, audits"),
        Provider("diagonal_gaussian", f"{heads}.gaussian:DIAGONAL_GAUSSIAN", "each kind of log std; a tiny one"),
        Provider("epsilon_greedy", f"{heads}.discrete:EPSILON_GREEDY", "action values; audits"),
        Provider("squashed_gaussian", f"{heads}.gaussian:SQUASHED_GAUSSIAN", "actions far out"),
        Provider("multi_categorical", f"{heads}.discrete:MULTI_CATEGORICAL", "two choices of unequal size"),
        Provider("bernoulli", f"{heads}.discrete:BERNOULLI", "two binary actions"),
        Provider("optimizers", "pgcore.optimizer_proofs:PROOFS", "options of each optimizer"),
    ]
