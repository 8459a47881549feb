"""Baselines and normalisation: advantages relative to other steps or episodes."""

from __future__ import annotations

import math

import numpy as np

from pgcore.errors import BatchError, NonFiniteError
from pgcore.validation.arrays import Array

__all__ = ["centre", "leave_one_out_mean", "normalise", "optimal_baseline"]


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
    # Padding would shift mean and std, so the statistics are those of real entries.
    real = None if weights is None else weights > 0
    members = x if real is None else x[real]
    count = len(members)
    if count > max(ddof, 1):
        members = centre(members)
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
        divisor = math.sqrt(square / (count - ddof)) + eps
        # Without eps, equal entries are 0 over 0.
        if divisor > 0:
            members /= divisor
    if real is None:
        return members
    result = np.zeros_like(x)
    result[real] = members
    return result


def centre(x: Array) -> Array:
    """Return [B] x less its mean, of x's dtype; exactly 0 if all entries are equal."""
    # The mean's rounding would otherwise come out as a spread of equal entries.
    centred = x - x[0]
    # Python sums a few entries sooner.
    return centred - (sum(centred.tolist()) if len(x) < 8 else np.add.reduce(centred)) / len(x)


def leave_one_out_mean(x: Array) -> Array:
    """Return [E]: for each entry the mean of the others.

    Raises:
        BatchError: fewer than 2 entries.
    """
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
    np.cumsum(x[:-1], axis=0, out=before[1:])
    after[:-1] = np.cumsum(x[:0:-1], axis=0)[::-1]
    return before + after
