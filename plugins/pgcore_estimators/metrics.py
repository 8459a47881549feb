"""The built-in metrics: figures of one gradient that are worth logging; see `pgcore.interfaces.metrics`.

A new metric is one function of this file, with a line in `METRICS` of `pgcore_estimators.plugin`.
"""

from __future__ import annotations

import math

import numpy as np

from pgcore.validation.arrays import Array

__all__ = [
    "action_value",
    "approx_kl",
    "clip_fraction",
    "effective_sample_size",
    "entropy",
    "explained_variance",
    "gain_weight_max",
    "gain_weight_sample_size",
    "gradient_norm",
    "kl",
    "ratio_max",
    "ratio_min",
    "value_loss",
]


# The policy's distributions


def entropy(*, entropy: Array) -> float:
    """Mean entropy of pi(. given s_t), nats."""
    return float(entropy.mean())


def kl(*, kl: Array) -> float:
    """Mean KL(reference, current policy), nats, in closed form."""
    return float(kl.mean())


def approx_kl(*, log_ratio: Array) -> float:
    """Mean of r - 1 - log r, nats: KL(behaviour policy, current policy) from its samples, never negative.

    Source: Schulman 2020, "Approximating KL divergence", estimator k3.
    """
    return float((np.expm1(log_ratio) - log_ratio).mean())


# The ratios r = pi / mu


def clip_fraction(*, clipped: Array) -> float:
    """Fraction of steps at which the surrogate is clipped, in [0, 1].

    Source: Schulman et al. 2017, eq. 7, arXiv:1707.06347, whose minimum takes the clipped branch there.
    """
    return float(clipped.mean())


def effective_sample_size(*, log_ratio: Array) -> float:
    """(sum r)^2 / sum r^2, steps: the number of steps of weight 1 that estimate a mean as well.

    Source: Kish 1965, "Survey sampling", sec. 11.7. Differs: the ratios are scaled by their largest, so that
    none overflows. At most the number of steps.
    """
    ratio = np.exp(log_ratio - log_ratio.max())
    return float(ratio.sum() ** 2 / (ratio * ratio).sum())


def ratio_min(*, log_ratio: Array) -> float:
    """Smallest ratio r = pi / mu, no unit."""
    return float(np.exp(log_ratio.min()))


def ratio_max(*, log_ratio: Array) -> float:
    """Largest ratio r = pi / mu, no unit."""
    return float(np.exp(log_ratio.max()))


# The gain's weights, of corrections and masks


def gain_weight_sample_size(*, gain_weight: Array) -> float:
    """(sum w)^2 / sum w^2, steps: `effective_sample_size` of corrections and masks; NaN of zeros alone."""
    largest = gain_weight.max()
    if largest == 0:
        return math.nan
    weight = gain_weight / largest
    return float(weight.sum() ** 2 / (weight * weight).sum())


def gain_weight_max(*, gain_weight: Array) -> float:
    """Largest weight of a step's gain, no unit."""
    return float(gain_weight.max())


# The critic


def action_value(*, action_value: Array) -> float:
    """Mean Q(s_t, a_t), reward units."""
    return float(action_value.mean())


def value_loss(*, value: Array, return_: Array) -> float:
    """Mean of (V - R)^2 / 2, squared reward units, for any loss of the surrogate's.

    An action-value critic has Q and its target in the places of V and R.
    """
    error = value - return_
    return float(0.5 * (error * error).mean())


def explained_variance(*, value: Array, return_: Array) -> float:
    """1 - Var(R - V) / Var(R), at most 1, no unit; 0 of a constant V, NaN of equal R.

    Source: the coefficient of determination with the mean error taken out, as in OpenAI Baselines' `explained_variance`.
    """
    # Rounding may give equal returns a variance above 0.
    if return_.max() == return_.min():
        return math.nan
    return float(1.0 - (return_ - value).var() / return_.var())


# The step


def gradient_norm(*, gradient_norm: float) -> float:
    """Euclidean norm of the gradient over all parameters, loss units over parameter units.

    Measured before any clipping by an optimizer.
    """
    return gradient_norm
