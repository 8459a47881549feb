"""Baselines and normalisation: advantages relative to other steps or episodes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pgcore.data.device_array import place_of
from pgcore.errors import BatchError, NonFiniteError
from pgcore.validation.arrays import Array, is_host

__all__ = ["best_over_second", "centre", "leave_one_out_mean", "normalise", "optimal_baseline"]
__all__ += ["Standard", "standard", "weighted_centre", "weighted_means"]


class Standard(NamedTuple):
    """The constants of a normalisation: x comes out as ((x - first) - mean) / divisor."""

    first: float  # the first entry that counts
    mean: float  # of the differences to it
    divisor: float  # std + eps; 1 where nothing is divided


def normalise(
    x: Array, weights: Array | None = None, *, ddof: int = 1, eps: float = 1e-8, noun: str = "step"
) -> Array:
    """Return (x - mean) / (std + eps).

    Args:
        x: [B] float.
        weights: [B] float or None. Entries of weight 0 (padding) do not count, and come back as 0.
        ddof: std divides by the count minus this; 1 in PyTorch's libraries, 0 in NumPy and JAX.
        eps: Added to the std, outside the root.
        noun: The unit of an entry, for errors.

    Returns:
        [B] of x's dtype, without unit. A constant vector gives 0; a single entry stays as it is.

    Raises:
        NonFiniteError: an entry is NaN or infinite, or the variance overflows; names the step.
    """
    if place_of(x) is not None:
        from pgcore.data.device_functions import standardised

        return standardised(x, weights, ddof=ddof, eps=eps)
    return _normalised(x, weights, ddof, eps, noun)[0]


def standard(
    x: Array, weights: Array | None = None, *, ddof: int = 1, eps: float = 1e-8, noun: str = "step"
) -> Standard:
    """Return the constants of `normalise`, for x that is on a device too; see there.

    Example:
        >>> standard(np.array([1.0, 3.0]), ddof=0, eps=0.0)
        Standard(first=1.0, mean=1.0, divisor=1.0)
    """
    first, mean, divisor = _normalised(x, weights, ddof, eps, noun)[1:]
    return Standard(float(first), float(mean), divisor)


def _normalised(
    x: Array, weights: Array | None, ddof: int, eps: float, noun: str
) -> tuple[Array, float, float, float]:
    """Return the result of `normalise`, and its constants."""
    # Padding would shift mean and std, so the statistics are those of real entries.
    real = None if weights is None else weights > 0
    members = x if real is None else x[real]
    first: Any = 0.0
    mean, divisor, count = 0.0, 1.0, len(members)
    if count > 1 and count > ddof:
        first = members[0]
        centred: Array = members - first
        mean = _mean(centred)
        members = centred - mean
        # Squares of float32 overflow at 2e19; `vdot`, unlike `dot`, overflows without a warning.
        wide = members if members.dtype == np.float64 else members.astype(np.float64)
        square = float(np.vdot(wide, wide))
        if not math.isfinite(square):
            # The first entry that is not finite, else the largest.
            entries = x if real is None else np.where(real, x, 0.0)
            finite = np.isfinite(entries)
            row = int(np.abs(entries).argmax() if finite.all() else finite.argmin())
            raise NonFiniteError(
                f"normalise: expected numbers with a finite variance, got {x[row]} at {noun} "
                f"{row}; scale the rewards down, or mend that {noun}"
            )
        # Without eps, equal entries are 0 over 0.
        divisor = math.sqrt(square / (count - ddof)) + eps or 1.0
        members /= divisor
    if real is None:
        return members, first, mean, divisor
    result = np.zeros_like(x)
    result[real] = members
    return result, first, mean, divisor


def centre(x: Array) -> Array:
    """Return [B] x less its mean, of x's dtype; exactly 0 if all entries are equal."""
    # The mean's rounding would otherwise come out as a spread of equal entries.
    centred = x - x[0]
    return centred - _mean(centred)


def _mean(x: Array) -> float:
    """Return the mean of [B] numbers."""
    if len(x) < 8 and is_host(x):
        return sum(x.tolist()) / len(x)  # sooner than NumPy
    return np.add.reduce(x) / len(x)


def weighted_centre(x: Array, weights: Array) -> Array:
    """Return [n] x less its weighted mean; exactly 0 if all entries are equal.

    Args:
        x: [n] float.
        weights: [n] float, at least 0 and not all 0.

    Example:
        >>> weighted_centre(np.array([1.0, 0.0]), np.array([1.0, 3.0])).tolist()
        [0.75, -0.25]
    """
    centred = x - x[0]
    return centred - (weights @ centred) / weights.sum()


def weighted_means(x: Array, weights: Array, numbers: Array) -> Array:
    """Return [n] for each entry the weighted mean of those with its number, such as a group's.

    Args:
        x: [n] float.
        weights: [n] float, at least 0.
        numbers: [n] integer.

    Returns:
        [n] float64, the unit of x; exactly the entry itself among equal ones, and 0 where all
        weights of a number are 0.

    Example:
        >>> weighted_means(np.array([1.0, 0.0, 5.0]), np.array([1.0, 3.0, 2.0]), np.array([4, 4, 7]))
        array([0.25, 0.25, 5.  ])
    """
    _, first, place = np.unique(numbers, return_index=True, return_inverse=True)
    # Differences to the first entry of a number, so that equal entries have no rounding.
    start = x[first][place]
    total = np.bincount(place, weights)
    product = np.bincount(place, weights * (x - start))
    weighed = total > 0
    means = np.where(weighed, product, 0.0) / np.where(weighed, total, 1.0)
    return np.where(weighed[place], start + means[place], 0.0)


def best_over_second(rewards: Array) -> Array:
    """Return [n] the best reward less the second best at the first best entry, and 0 elsewhere.

    Args:
        rewards: [n] float, at least 2.

    Example:
        >>> best_over_second(np.array([0.5, 2.0, 1.5])).tolist()
        [0.0, 0.5, 0.0]
    """
    second, best = np.partition(rewards, -2)[-2:]
    lead = np.zeros_like(rewards)
    lead[rewards.argmax()] = best - second
    return lead


def leave_one_out_mean(x: Array, weights: Array | None = None) -> Array:
    """Return [E]: for each entry the mean of the others.

    Args:
        x: [E] float.
        weights: [E] positive float or None; those of a weighted mean.

    Raises:
        BatchError: fewer than 2 entries.

    Example:
        >>> leave_one_out_mean(np.array([6.0, 3.0, 9.0])).tolist()
        [6.0, 7.5, 4.5]
    """
    if weights is not None:
        others = _sum_of_others("leave_one_out_mean", weights * x)
        return others / _sum_of_others("leave_one_out_mean", weights)
    others = _sum_of_others("leave_one_out_mean", x)
    return others / (len(x) - 1) if len(x) > 2 else others.copy()


def optimal_baseline(scores: Array, weighted_scores: Array, *, per_component: bool) -> Array:
    """Return each episode's variance-minimising baseline, estimated from the other episodes.

    With scores g and return-weighted scores u, the scalar baseline is E[<u, g>] / E[|g|^2] and the
    per-component one E[u_j g_j] / E[g_j^2]. For a return R that is the same at every step u = g R,
    which gives E[g^2 R] / E[g^2]. Leaving the own episode out keeps the gradient unbiased. If the
    others' scores are all 0 the baseline is 0.

    Args:
        scores: [E, D] float. Sum over an episode's steps of d log pi / d theta.
        weighted_scores: [E, D] float. The same, each step weighed by its return.
        per_component: One baseline for each parameter, or one for all.

    Returns:
        [E, D] if per component, else [E, 1], reward units.

    Raises:
        BatchError: fewer than 2 episodes.

    Source: Greensmith, Bartlett and Baxter 2004, JMLR 5, sec. 4; leave-one-out: Kool et al. 2019.
    """
    products = weighted_scores * scores, scores * scores
    if not per_component:
        products = [product.sum(axis=1, keepdims=True) for product in products]
    numerator, denominator = (_sum_of_others("optimal_baseline", product) for product in products)
    # No score, no baseline: both are 0 then.
    positive = denominator > 0
    return np.where(positive, numerator / np.where(positive, denominator, 1.0), 0.0)


def _sum_of_others(where: str, x: Array) -> Array:
    """Return, for each row, the sum of all other rows; BatchError if there are none."""
    if len(x) < 2:
        raise BatchError(
            f"{where}: expected at least 2 episodes to leave one out, got {len(x)}; "
            "collect more or choose another baseline"
        )
    if len(x) == 2:
        return x[::-1]
    # Unlike total - own, sums before and after cannot leave a positive sum negative by rounding.
    before, after = np.zeros_like(x), np.zeros_like(x)
    before[1:] = np.cumsum(x[:-1], axis=0)
    after[:-1] = np.cumsum(x[:0:-1], axis=0)[::-1]
    return before + after
