"""Signals: what is computed from a whole batch and held constant. Returns, advantages, baselines, normalisation.

Pure functions of flat float64 arrays, `B` steps in `E` episodes one after the other. `_t` is a step's own time, `_tp1` the
next. No episode's numbers depend on another's, except in the baselines that average over episodes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgcore.errors import BatchError, NonFiniteError, ShapeError

__all__ = [
    "centre",
    "discounted_sum",
    "discounts",
    "episode_returns",
    "gae",
    "leave_one_out_mean",
    "n_step_returns",
    "next_values",
    "normalise",
    "optimal_baseline",
    "returns",
    "td_errors",
]

Array = NDArray[Any]

# SciPy's solver is faster from about this many steps on, and importing it costs 0.2 s that a short first batch need not pay.
SOLVER_FROM = 512


def discounted_sum(x_t: Array, coefficient_t: Array) -> Array:
    """Return y with y_t = x_t + coefficient_t * y_{t+1}, and y = x at the last step.

    A coefficient of 0 cuts the recursion, so episodes are kept apart by a 0 at each one's last step. This is a unit upper
    bidiagonal system, and is solved as one.

    Args:
        x_t: [B] float64.
        coefficient_t: [B] float64; the last is not read.

    Returns:
        [B] float64, a new array.

    Raises:
        ShapeError: the lengths differ.
    """
    check_same_length("discounted_sum", x_t, coefficient_t)
    if len(x_t) >= SOLVER_FROM:
        from scipy.linalg.blas import dtbsv

        band = np.empty((2, len(x_t)), order="F")
        np.negative(coefficient_t[:-1], out=band[0, 1:])
        y = dtbsv(1, band, np.array(x_t, np.float64), diag=1, overwrite_x=1)
        # The solver multiplies by a coefficient of 0 too, so that an infinity in one episode is NaN in all before it, the first step's too.
        if math.isfinite(y[0]):
            return y
    return np.array(_looped(x_t.tolist(), coefficient_t.tolist()), np.float64)


def _looped(y: list[float], coefficients: list[float]) -> list[float]:
    for t in range(len(y) - 2, -1, -1):
        if coefficients[t] != 0:
            y[t] += coefficients[t] * y[t + 1]
    return y


def discounts(episode_lengths: Array, factor: float) -> Array:
    """Return [B] float64: the factor, and 0 at each episode's last step."""
    return _discounts(episode_lengths.cumsum() - 1, factor)


def _discounts(ends: Array, factor: float) -> Array:
    coefficient = np.empty(ends[-1] + 1)
    coefficient.fill(factor)
    coefficient[ends] = 0.0
    return coefficient


def returns(
    r_t: Array, episode_lengths: Array, gamma: float, final_value: Array | None = None
) -> Array:
    """Return the discounted reward-to-go G_t = r_t + gamma G_{t+1} of every step.

    Args:
        r_t: [B] float64, environment units.
        episode_lengths: [E] integer.
        gamma: Discount in [0, 1].
        final_value: [E] float64 or None. Value of what followed each episode, 0 where it terminated.

    Returns:
        [B] float64, reward units, discounted from the step's own time.

    Raises:
        ShapeError: the lengths do not sum to B, or final_value does not have E entries.

    Source: Sutton and Barto 2018, eq. 3.9.
    """
    ends = last_steps("returns", r_t, episode_lengths)
    x_t = np.array(r_t, np.float64)
    if final_value is not None:
        check_same_length("returns", final_value, episode_lengths)
        x_t[ends] += gamma * final_value
    return discounted_sum(x_t, _discounts(ends, gamma))


def episode_returns(g_t: Array, episode_lengths: Array) -> Array:
    """Return [E]: the return of each episode's first step, from [B] rewards-to-go."""
    return g_t[episode_lengths.cumsum() - episode_lengths]


def next_values(v_t: Array, episode_lengths: Array, final_value: Array) -> Array:
    """Return [B] float64 V(s_{t+1}): the next step's value, and after an episode's last step its final value.

    Args:
        v_t: [B] float64. V(s_t).
        episode_lengths: [E] integer.
        final_value: [E] float64. V of the final observation where the episode was cut, 0 where it terminated.

    Raises:
        ShapeError: the lengths do not sum to B, or final_value does not have E entries.
    """
    ends = last_steps("next_values", v_t, episode_lengths)
    check_same_length("next_values", final_value, episode_lengths)
    v_tp1 = np.empty(len(v_t))
    v_tp1[:-1] = v_t[1:]
    v_tp1[ends] = final_value
    return v_tp1


def td_errors(r_t: Array, v_t: Array, v_tp1: Array, gamma: float) -> Array:
    """Return [B] delta_t = r_t + gamma V(s_{t+1}) - V(s_t). Source: Sutton and Barto 2018, eq. 6.5."""
    return r_t + gamma * v_tp1 - v_t


def n_step_returns(
    r_t: Array, v_t: Array, v_tp1: Array, episode_lengths: Array, gamma: float, n: int
) -> Array:
    """Return r_t + ... + gamma^{n-1} r_{t+n-1} + gamma^n V(s_{t+n}), ending early where the episode does.

    Args:
        r_t: [B] float64, environment units.
        v_t: [B] float64. V(s_t).
        v_tp1: [B] float64. V(s_{t+1}), as `next_values` gives it.
        episode_lengths: [E] integer.
        gamma: Discount in [0, 1].
        n: Rewards to sum, at least 1.

    Returns:
        [B] float64, reward units.

    Raises:
        ShapeError: the lengths disagree.

    Source: Sutton and Barto 2018, eq. 7.1.
    """
    ends = last_steps("n_step_returns", r_t, episode_lengths)
    check_same_length("n_step_returns", r_t, v_t)
    check_same_length("n_step_returns", r_t, v_tp1)
    at_end = r_t[ends] + gamma * v_tp1[ends]
    g_t = np.array(v_t, np.float64)
    for _ in range(min(n, int(episode_lengths.max()))):
        g_t[:-1] = r_t[:-1] + gamma * g_t[1:]
        g_t[ends] = at_end
    return g_t


def gae(
    r_t: Array, v_t: Array, v_tp1: Array, episode_lengths: Array, gamma: float, gae_lambda: float
) -> Array:
    """Return generalised advantage estimates: the sum of (gamma lambda)^k delta_{t+k} to the episode's end.

    Args:
        r_t: [B] float64, environment units.
        v_t: [B] float64. V(s_t).
        v_tp1: [B] float64. V(s_{t+1}), as `next_values` gives it: time limits bootstrap.
        episode_lengths: [E] integer.
        gamma: Discount in [0, 1].
        gae_lambda: In [0, 1]; 0 gives TD errors, 1 gives G_t - V(s_t).

    Returns:
        [B] float64, reward units. Zero mean is not implied; nothing is normalised.

    Raises:
        ShapeError: the lengths disagree.

    Source: Schulman et al. 2016, eq. 16, arXiv:1506.02438. Differs: time limits bootstrap.
    """
    ends = last_steps("gae", r_t, episode_lengths)
    check_same_length("gae", r_t, v_t)
    check_same_length("gae", r_t, v_tp1)
    return discounted_sum(td_errors(r_t, v_t, v_tp1, gamma), _discounts(ends, gamma * gae_lambda))


def normalise(
    x: Array, weights: Array | None = None, *, ddof: int = 1, eps: float = 1e-8, noun: str = "step"
) -> Array:
    """Return (x - mean) / (std + eps).

    Args:
        x: [B] float.
        weights: [B] float or None. Entries of weight 0 (padding) stay out of mean and std, and come back as 0.
        ddof: std divides by the count minus this; 1 as PyTorch's libraries do, 0 as NumPy's and JAX's.
        eps: Added to the std, outside the root.
        noun: What an entry belongs to, for errors.

    Returns:
        [B] of x's dtype, without unit. A constant vector gives 0; a single entry stays as it is.

    Raises:
        NonFiniteError: an entry is NaN or infinite, or the variance overflows; names the step.
    """
    real = None if weights is None else weights > 0
    members = x if real is None else x[real]
    count = len(members)
    if count > max(ddof, 1):
        centred = centre(members)
        # Squares of float32 overflow at 2e19; `vdot`, unlike `dot`, overflows without a warning.
        wide = centred if centred.dtype == np.float64 else centred.astype(np.float64)
        square = float(np.vdot(wide, wide))
        if not math.isfinite(square):
            raise _no_variance(x if real is None else np.where(real, x, 0.0), noun)
        members = centred / (math.sqrt(square / (count - ddof)) + eps)
    if real is None:
        return members
    result = np.zeros_like(x)
    result[real] = members
    return result


def _no_variance(x: Array, noun: str) -> NonFiniteError:
    """Return the error that names the first entry that is not finite, else the largest."""
    finite = np.isfinite(x)
    row = int(np.abs(x).argmax() if finite.all() else finite.argmin())
    return NonFiniteError(
        f"normalise: expected numbers with a finite variance, got {x[row]} at {noun} {row}; "
        f"scale the rewards down, or mend that {noun}"
    )


def centre(x: Array) -> Array:
    """Return [B] x less its mean, of x's dtype; exactly 0 where all [B] entries are equal.

    The first entry is taken off before the mean is, whose rounding would otherwise come out as a spread of equal entries.
    """
    centred = x - x[0]
    return centred - np.add.reduce(centred) / len(x)


def leave_one_out_mean(x: Array) -> Array:
    """Return [E]: for each entry the mean of the others.

    Raises:
        BatchError: fewer than 2 entries.
    """
    check_pair("leave_one_out_mean", x)
    return _sum_of_others(x) / (len(x) - 1)


def optimal_baseline(scores: Array, weighted_scores: Array, *, per_component: bool) -> Array:
    """Return, for each episode, the variance-minimising baseline estimated from the other episodes.

    With scores g and return-weighted scores u, the scalar form is E[<u, g>] / E[|g|^2] and the per-component form
    E[u_j g_j] / E[g_j^2]. For a return R that is the same at every step u = g R, which gives E[g^2 R] / E[g^2]. Leaving the
    own episode out keeps the gradient unbiased. Where the others' scores are all 0 the baseline is 0.

    Args:
        scores: [E, D] float. Sum over an episode's steps of d log pi / d theta.
        weighted_scores: [E, D] float. The same, each step weighed by its return.
        per_component: One baseline for each parameter, or one for all.

    Returns:
        [E, D] if per component, else [E, 1], reward units.

    Raises:
        BatchError: fewer than 2 episodes.

    Source: Greensmith, Bartlett and Baxter 2004, JMLR 5, sec. 4; leave-one-out as in Kool et al. 2019.
    """
    check_pair("optimal_baseline", scores)
    numerator, denominator = weighted_scores * scores, scores * scores
    if not per_component:
        numerator, denominator = (
            numerator.sum(axis=1, keepdims=True),
            denominator.sum(axis=1, keepdims=True),
        )
    others_numerator, others_denominator = _sum_of_others(numerator), _sum_of_others(denominator)
    safe = np.where(others_denominator > 0, others_denominator, 1.0)
    return np.where(others_denominator > 0, others_numerator / safe, 0.0)


def _sum_of_others(x: Array) -> Array:
    if len(x) == 2:
        return x[::-1]
    # Summing what stands before and after avoids the cancellation of (total - own), which can leave a positive sum negative.
    before, after = np.zeros_like(x), np.zeros_like(x)
    np.cumsum(x[:-1], axis=0, out=before[1:])
    after[:-1] = np.cumsum(x[:0:-1], axis=0)[::-1]
    return before + after


def check_same_length(where: str, left: Array, right: Array) -> None:
    """Raise ShapeError unless both have the same number of rows."""
    if len(left) != len(right):
        raise ShapeError(
            f"{where}: expected arrays of one length, got {len(left)} and {len(right)}; pass values for the same steps"
        )


def last_steps(where: str, x_t: Array, episode_lengths: Array) -> Array:
    """Return [E] the index of each episode's last step, or raise ShapeError unless the lengths sum to the number of steps."""
    ends = episode_lengths.cumsum() - 1
    if len(ends) == 0 or ends[-1] + 1 != len(x_t):
        raise ShapeError(
            f"{where}: expected lengths that sum to {len(x_t)}, the number of steps, got {int(episode_lengths.sum())}; check both"
        )
    return ends


def check_pair(where: str, x: Array) -> None:
    """Raise BatchError unless there are at least two rows, so that one can be left out."""
    if len(x) < 2:
        raise BatchError(
            f"{where}: expected at least 2 episodes to leave one out, got {len(x)}; collect more or choose another baseline"
        )
