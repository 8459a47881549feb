"""Registers the built-in heads, networks, activations, schedules, metrics and deriver."""

from __future__ import annotations

import inspect

from pgcore.hooks import Provider, hookimpl
from pgcore.interfaces.metrics import METRICS

__all__ = [
    "pgcore_activations",
    "pgcore_derivers",
    "pgcore_heads",
    "pgcore_metrics",
    "pgcore_networks",
    "pgcore_schedules",
]


@hookimpl
def pgcore_heads() -> list[Provider]:
    """Provide the core's heads."""
    return [
        Provider(
            "categorical",
            "pgcore.heads:Categorical",
            "softmax over n actions with a temperature and masks",
        ),
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
        Provider(
            "multi_categorical",
            "pgcore.heads:MultiCategorical",
            "several softmax choices at once, with masks",
        ),
        Provider("bernoulli", "pgcore.heads:Bernoulli", "independent switches, with masks"),
    ]


@hookimpl
def pgcore_networks() -> list[Provider]:
    """Provide the core's networks."""
    return [
        Provider("table", "pgcore.data.networks:Table", "one row of outputs a discrete state"),
        Provider("linear", "pgcore.data.networks:Linear", "an affine map of the observations"),
        Provider("mlp", "pgcore.data.networks:MLP", "fully connected layers with one activation"),
    ]


@hookimpl
def pgcore_activations() -> list[Provider]:
    """Provide the core's activations."""
    return [
        Provider("tanh", "pgcore.data.activations:Tanh", "hyperbolic tangent"),
        Provider("relu", "pgcore.data.activations:Relu", "max(x, 0), with derivative 0 at 0"),
        Provider("sigmoid", "pgcore.data.activations:Sigmoid", "1 / (1 + exp(-x))"),
    ]


@hookimpl
def pgcore_schedules() -> list[Provider]:
    """Provide the core's learning-rate schedules."""
    return [
        Provider(
            "constant",
            "pgcore.interfaces.schedules:ConstantSchedule",
            "the same rate at every step",
        ),
        Provider(
            "linear",
            "pgcore.interfaces.schedules:LinearSchedule",
            "a straight line from one rate to another",
        ),
        Provider(
            "cosine",
            "pgcore.interfaces.schedules:CosineSchedule",
            "half a cosine from one rate to another",
        ),
    ]


@hookimpl
def pgcore_derivers() -> list[Provider]:
    """Provide derivation by SymPy."""
    return [
        Provider(
            "sympy",
            "pgcore_derive.derivation:derive",
            "cotangents from a surrogate, by SymPy",
            "sympy",
            "derive",
        )
    ]


@hookimpl
def pgcore_metrics() -> list[Provider]:
    """Provide the core's metrics, each with the first line of its docstring."""
    return [
        Provider(
            name,
            f"pgcore.interfaces.metrics:{name}",
            (inspect.getdoc(function) or "").partition("\n")[0].rstrip("."),
        )
        for name, function in METRICS.items()
    ]
