"""Metrics: figures of one gradient that are worth logging, each a function of what it is computed from.

A metric's keyword-only parameters say what it needs, and it is computed wherever all of them are there:

| keyword | holds |
|---|---|
| a quantity that the surrogate uses | see `pgcore.interfaces.estimator.QUANTITIES` |
| a signal that the surrogate uses | what `Estimator.signals` returned, as the surrogate sees it |
| `log_ratio`, `clipped`, `value`, `return_` | see `Estimator.metric_inputs` |
| `terms` | [B] the surrogate's terms |
| `weights` | [B] their weights in the loss |
| `gradient_norm` | the Euclidean norm over all parameters |

Steps of padding are left out of every array. A metric that is not defined of the steps at hand, such as
the explained variance of equal returns, is NaN: a run's file then holds `null`, and its names never change.
So is every metric of padding alone. Overflow gives infinity, which is `null` in that file too.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pgcore.errors import PluginError
from pgcore.registry.registry import Registry, registry
from pgcore.validation.arrays import Array

if TYPE_CHECKING:
    from pgcore.interfaces.estimator import (
        Estimator,  # listing what is registered imports this module, and no more than it needs
    )

__all__ = ["METRICS", "Metric", "compute_metrics", "metric"]

Metric = Callable[..., float]

# The built-in metrics by name; `pgcore.plugin` provides every one of them.
METRICS: dict[str, Metric] = {}


def metric(function: Metric) -> Metric:
    """Make a function of this module a metric under its own name."""
    METRICS[function.__name__] = function
    return function


def compute_metrics(
    estimator: Estimator,
    given: Mapping[str, Array],
    weights: Array,
    terms: Array,
    gradient_norm: float,
) -> dict[str, float]:
    """Return every registered metric whose keywords are there, and the estimator's own, by name.

    Args:
        estimator: Gives `metric_inputs` and `metrics`.
        given: [B, ...] quantities and signals that the surrogate was given.
        weights: [B] weights of the terms; 0 for padding.
        terms: [B] the surrogate's terms.
        gradient_norm: Over all parameters.

    Raises:
        PluginError: a metric takes other parameters than keywords, or returns no number.
    """
    real = weights > 0
    named = {name: value[real] for name, value in given.items()}
    available: dict[str, Any] = named | estimator.metric_inputs(**named)
    available |= {"weights": weights[real], "terms": terms[real], "gradient_norm": gradient_norm}
    metrics = applicable(registry(), frozenset(available))
    if not real.any():
        return {name: math.nan for name, _, _ in metrics}
    figures: dict[str, float] = {}
    for name, function, keywords in metrics:
        figures[name] = number(
            name, function(**{keyword: available[keyword] for keyword in keywords})
        )
    return figures | estimator.metrics(**named)


# A process meets few estimators; and a run asks after each of its updates.
@functools.lru_cache(maxsize=64)
def applicable(
    found: Registry, available: frozenset[str]
) -> tuple[tuple[str, Metric, tuple[str, ...]], ...]:
    """Return name, function and keywords of the metrics that can be computed from those keywords.

    A metric that is not usable, as one that two distributions provide, is passed over.
    """
    return tuple(
        (name, function, tuple(keyword for keyword in keywords if keyword in available))
        for name, function in usable(found)
        for keywords in (keywords_of(name, function),)
        if all(optional or keyword in available for keyword, optional in keywords.items())
    )


def usable(found: Registry) -> Iterator[tuple[str, Metric]]:
    """Yield name and function of the usable metrics."""
    for registration in found.providers("metrics"):
        if registration.status == "usable":
            name = registration.provider.name
            yield name, cast("Metric", found.load("metrics", name))


def keywords_of(name: str, function: Metric) -> dict[str, bool]:
    """Return a metric's keywords, each with whether it has a default; raise PluginError if it takes anything else."""
    parameters = inspect.signature(function).parameters.values()
    if not parameters or any(
        parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters
    ):
        raise PluginError(
            f"metric {name!r}: expected keyword-only parameters, got {inspect.signature(function)}; "
            "write (*, names...), each a quantity, a signal or another keyword of pgcore.interfaces.metrics"
        )
    return {parameter.name: parameter.default is not parameter.empty for parameter in parameters}


def number(name: str, value: object) -> float:
    """Return a metric's value as a float; raise PluginError unless it is one number."""
    if np.ndim(cast("Any", value)) != 0 or np.asarray(value).dtype.kind not in "biuf":
        shape = list(np.shape(cast("Any", value)))
        raise PluginError(
            f"metric {name!r}: expected one number, got {type(value).__name__} of shape {shape}; "
            "reduce it over the steps"
        )
    return float(cast("Any", value))


# What the policy did


@metric
def entropy(*, entropy: Array) -> float:
    """Mean entropy of pi(. given s_t), nats."""
    return float(entropy.mean())


@metric
def kl(*, kl: Array) -> float:
    """Mean KL(reference, current policy), nats, in closed form."""
    return float(kl.mean())


@metric
def approx_kl(*, log_ratio: Array) -> float:
    """Mean of r - 1 - log r, nats: KL(behaviour policy, current policy) from its samples, never negative.

    Source: Schulman 2020, "Approximating KL divergence", estimator k3.
    """
    return float((np.expm1(log_ratio) - log_ratio).mean())


# What the ratios were


@metric
def clip_fraction(*, clipped: Array) -> float:
    """Fraction of steps at which the surrogate is clipped, in [0, 1].

    Source: Schulman et al. 2017, eq. 7, arXiv:1707.06347, whose minimum takes the clipped branch there.
    """
    return float(clipped.mean())


@metric
def effective_sample_size(*, log_ratio: Array) -> float:
    """(sum r)^2 / sum r^2, steps: how many steps of weight 1 estimate a mean as well; at most the number of steps.

    Source: Kish 1965, "Survey sampling", sec. 11.7. Differs: the ratios are scaled by their largest, so that none overflows.
    """
    ratio = np.exp(log_ratio - log_ratio.max())
    return float(ratio.sum() ** 2 / (ratio * ratio).sum())


@metric
def ratio_min(*, log_ratio: Array) -> float:
    """Smallest ratio r = pi / mu, no unit."""
    return float(np.exp(log_ratio.min()))


@metric
def ratio_max(*, log_ratio: Array) -> float:
    """Largest ratio r = pi / mu, no unit."""
    return float(np.exp(log_ratio.max()))


# How good the critic is


@metric
def action_value(*, action_value: Array) -> float:
    """Mean Q(s_t, a_t), reward units."""
    return float(action_value.mean())


@metric
def value_loss(*, value: Array, return_: Array) -> float:
    """Mean of (V - R)^2 / 2, squared reward units, whatever the surrogate makes of the error; Q and y of an action-value critic."""
    error = value - return_
    return float(0.5 * (error * error).mean())


@metric
def explained_variance(*, value: Array, return_: Array) -> float:
    """1 - Var(R - V) / Var(R), at most 1, no unit; 0 of a constant V, NaN where all R are equal.

    Source: the coefficient of determination with the mean error taken out, as in OpenAI Baselines' `explained_variance`.
    """
    if return_.max() == return_.min():  # rounding may give equal returns a variance above 0
        return math.nan
    return float(1.0 - (return_ - value).var() / return_.var())


# The step


@metric
def gradient_norm(*, gradient_norm: float) -> float:
    """Euclidean norm of the gradient over all parameters, loss units over parameter units; before any clipping by an optimizer."""
    return gradient_norm
