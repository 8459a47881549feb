"""Metrics: figures of one gradient to log, each a function from keyword-only parameters to a float.

A metric is computed wherever all of its keywords are available:

| keyword | holds |
|---|---|
| a quantity that the surrogate uses | see `pgcore.interfaces.estimator.QUANTITIES` |
| a signal that the surrogate uses | the finalised result of `Estimator.signals` |
| `log_ratio`, `clipped`, `value`, `return_` | see `Estimator.metric_inputs` |
| `terms` | [B] the surrogate's terms |
| `weights` | [B] their weights in the loss |
| `gradient_norm` | the Euclidean norm over all parameters |

Padding and steps that do not count are left out of every array. A metric that is undefined for the steps at hand, such as
the explained variance of equal returns, is NaN, and so is every metric of padding alone.
"""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from pgcore.errors import PluginError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.surrogate import Surrogate
from pgcore.registry.registry import Registry, registry
from pgcore.validation.arrays import Array

__all__ = ["Metric", "compute_figures", "compute_metrics"]

Metric = Callable[..., float]
Applicable = tuple[str, Metric, tuple[str, ...]]


def compute_metrics(
    surrogate: Surrogate, arguments: Mapping[str, Array], terms: Array, norm: float
) -> dict[str, float]:
    """Return every registered metric that has its keywords, and the estimator's own, by name.

    Args:
        surrogate: The loss.
        arguments: [B, ...] its quantities and signals.
        terms: [B] its terms.
        norm: Of the gradient, over all parameters.
    """
    estimator = surrogate.estimator
    return compute_figures(estimator, arguments, terms, surrogate.weights, surrogate.real, norm)


def compute_figures(
    estimator: Estimator,
    arguments: Mapping[str, Array],
    terms: Array,
    weights: Array,
    real: Array,
    norm: float | None = None,
) -> dict[str, float]:
    """Return `compute_metrics` of a loss without a policy.

    Args:
        estimator: Whose loss.
        arguments: [B, ...] its quantities and signals.
        terms: [B] its terms.
        weights: [B] of the terms.
        real: [B] bool, False for padding and steps left out.
        norm: Of the gradient; None where there is none.
    """
    # Padding may hold anything. Without other steps it tells the names alone: some inputs of metrics
    # are undefined for no steps at all.
    nothing = not real.any()
    if nothing:
        real = np.ones_like(real)
    keywords = {name: value[real] for name, value in arguments.items()}
    available: dict[str, Any] = keywords | estimator.metric_inputs(**keywords)
    available |= {"weights": weights[real], "terms": terms[real]}
    if norm is not None:
        available["gradient_norm"] = norm
    metrics = applicable(registry(), frozenset(available))
    if nothing:
        return {name: math.nan for name, _, _ in metrics}
    figures: dict[str, float] = {}
    for name, function, needs in metrics:
        try:
            figures[name] = number_of(function(**{need: available[need] for need in needs}))
        except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything
            leave_out(name, error)
    return figures | estimator.metrics(**keywords)


def number_of(value: Any) -> float:
    """Return a metric's value as a float, or raise PluginError."""
    if np.ndim(value) != 0 or np.asarray(value).dtype.kind not in "biuf":
        got = f"{type(value).__name__} of shape {list(np.shape(value))}"
        raise PluginError(f"expected one number, got {got}; reduce it over the steps")
    return float(value)


def leave_out(name: str, error: Exception) -> None:
    """Warn that a metric is left out; a figure ends no training run."""
    reason = f"metric {name!r} is left out: {type(error).__name__}: {error}"
    warnings.warn(f"{reason}; correct or uninstall its plugin", stacklevel=3)


# A process has few estimators, and a training run asks after each update.
@functools.lru_cache(maxsize=64)
def applicable(plugins: Registry, available: frozenset[str]) -> list[Applicable]:
    """Return name, function and keywords of the usable metrics that have their keywords."""
    metrics: list[Applicable] = []
    for registration in plugins.providers("metrics"):
        if registration.status == "usable":
            name = registration.provider.name
            try:
                function = cast("Metric", plugins.load("metrics", name))
                keywords = keywords_of(function)
            except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything
                leave_out(name, error)
                continue
            if all(optional or keyword in available for keyword, optional in keywords.items()):
                metrics.append((name, function, tuple(key for key in keywords if key in available)))
    return metrics


def keywords_of(function: Metric) -> dict[str, bool]:
    """Return a metric's keywords, each with whether it has a default, or raise PluginError."""
    parameters = inspect.signature(function).parameters.values()
    if not parameters or any(p.kind is not p.KEYWORD_ONLY for p in parameters):
        raise PluginError(
            f"expected keyword-only parameters, got {inspect.signature(function)}; "
            "write (*, names...) with keywords of pgcore.interfaces.metrics"
        )
    return {p.name: p.default is not p.empty for p in parameters}
