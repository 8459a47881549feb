"""Discounted sums along episodes: returns, TD errors, generalised advantages."""

from __future__ import annotations

import math
from typing import cast

import numpy as np

from pgcore.data.device_array import DeviceArray, place_of
from pgcore.errors import ShapeError
from pgcore.validation.arrays import Array, is_host

__all__ = [
    "discounted_sum",
    "discounts",
    "episode_returns",
    "gae",
    "n_step_returns",
    "next_values",
    "returns",
    "state_discounts",
    "td_errors",
]

ARRAYS = (np.ndarray, DeviceArray)  # of a discount for each step
# Steps from which SciPy solves, 0.5 ms sooner; its import takes as long as a thousand loops.
SOLVER_FROM = 2048


def discounted_sum(x_t: Array, coefficient_t: Array, episode_lengths: Array | None = None) -> Array:
    """Return [B] float64 y with y_t = x_t + coefficient_t * y_{t+1}, and y = x at the last step.

    A coefficient of 0 at each episode's last step keeps episodes apart. This is a unit upper
    bidiagonal system, and is solved as one; on a device by doubling, in log2 of the longest episode's steps passes.

    Args:
        x_t: [B] float64.
        coefficient_t: [B] float64; the last is not read.
        episode_lengths: [E] integer; None for one episode. Only a device needs it.

    Raises:
        ShapeError: the lengths differ.
    """
    _check_same_length("discounted_sum", x_t, coefficient_t)
    device = place_of(x_t) or place_of(coefficient_t)
    if device is not None:
        longest = len(x_t) if episode_lengths is None else int(episode_lengths.max())
        from pgcore.data.device_functions import backward_sum

        return backward_sum(device, x_t, coefficient_t, longest)
    if len(x_t) >= SOLVER_FROM:
        from scipy.linalg.blas import dtbsv

        # BLAS band storage: the superdiagonal above a unit diagonal, which is not read.
        band = np.empty((2, len(x_t)), order="F")
        np.negative(coefficient_t[:-1], out=band[0, 1:])
        y = dtbsv(1, band, np.array(x_t, np.float64), diag=1, overwrite_x=1)
        # An infinity times a coefficient of 0 makes NaN of all before it, the first step's too.
        if math.isfinite(y[0]):
            return y
    # A loop over Python's floats, which is faster than one over NumPy's.
    y, coefficients = x_t.tolist(), coefficient_t.tolist()
    for t in range(len(y) - 2, -1, -1):
        if coefficients[t] != 0:
            y[t] += coefficients[t] * y[t + 1]
    return np.array(y, np.float64)


def discounts(episode_lengths: Array, factor: float | Array) -> Array:
    """Return [B] float64: the factor, and 0 at each episode's last step."""
    return _discounts(episode_lengths.cumsum() - 1, factor)


def _discounts(ends: Array, factor: float | Array) -> Array:
    if place_of(factor) is not None:
        coefficient = _copied(cast("Array", factor))
    else:
        coefficient = np.empty(ends[-1] + 1)
        coefficient[:] = factor
    coefficient[ends] = 0.0
    return coefficient


def state_discounts(episode_lengths: Array, gamma: float | Array) -> Array:
    """Return [B] float64: the product of the discounts of an episode's earlier steps, gamma^t.

    Args:
        episode_lengths: [E] integer.
        gamma: Discount in [0, 1], or [B] float64, one a step.

    Raises:
        ShapeError: the lengths do not sum to B.

    Example:
        >>> state_discounts(np.array([3, 1]), 0.5).tolist()
        [1.0, 0.5, 0.25, 1.0]
    """
    starts = episode_lengths.cumsum() - episode_lengths
    if not isinstance(gamma, ARRAYS):
        first = np.repeat(starts, episode_lengths)
        return gamma ** cast("Array", np.arange(len(first)) - first)
    ends, factors = last_steps("state_discounts", episode_lengths, gamma), np.ones_like(gamma)
    factors[1:] = gamma[:-1]
    if not is_host(factors):
        # The recursion runs forwards in time, so both arrays are reversed.
        factors[starts] = 0.0
        first = np.zeros(len(gamma))
        first[starts] = 1.0
        return discounted_sum(first[::-1], factors[::-1], episode_lengths)[::-1]
    factors[starts] = 1.0
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        np.multiply.accumulate(factors[start : end + 1], out=factors[start : end + 1])
    return factors


def returns(
    r_t: Array, episode_lengths: Array, gamma: float | Array, final_value: Array | None = None
) -> Array:
    """Return [B] float64 G_t = r_t + gamma G_{t+1}, each step's reward-to-go, reward units.

    Args:
        r_t: [B] float64, environment units.
        episode_lengths: [E] integer.
        gamma: Discount in [0, 1], or [B] float64, one a step; see `Batch.step_discounts`.
        final_value: [E] float64 or None. Value of the state after each episode, 0 if terminated.

    Raises:
        ShapeError: the lengths do not sum to B, or final_value does not have E entries.

    Source: Sutton and Barto 2018, eq. 3.9.
    """
    ends = last_steps("returns", episode_lengths, r_t, gamma)
    x_t = _copied(r_t)
    if final_value is not None:
        _check_same_length("returns", final_value, episode_lengths)
        x_t[ends] += _at(gamma, ends) * final_value
    return discounted_sum(x_t, _discounts(ends, gamma), episode_lengths)


def episode_returns(g_t: Array, episode_lengths: Array) -> Array:
    """Return [E]: the return of each episode's first step, from [B] rewards-to-go."""
    return g_t[episode_lengths.cumsum() - episode_lengths]


def next_values(v_t: Array, episode_lengths: Array, final_value: Array) -> Array:
    """Return [B, ...] float64 V(s_{t+1}), an episode's final value after its last step.

    Args:
        v_t: [B, ...] float64. V(s_t), or a row of values.
        episode_lengths: [E] integer.
        final_value: [E, ...] float64. V of the final observation if truncated, 0 if terminated.

    Raises:
        ShapeError: the lengths do not sum to B, or final_value does not have E entries.
    """
    ends = last_steps("next_values", episode_lengths, v_t)
    _check_same_length("next_values", final_value, episode_lengths)
    v_tp1 = np.empty_like(v_t, np.float64)
    v_tp1[:-1] = v_t[1:]
    v_tp1[ends] = final_value
    return v_tp1


def td_errors(r_t: Array, v_t: Array, v_tp1: Array, gamma: float | Array) -> Array:
    """Return [B] delta_t = r_t + gamma V(s_{t+1}) - V(s_t).

    See `gae` for the arguments. Source: Sutton and Barto 2018, eq. 6.5.
    """
    return r_t + gamma * v_tp1 - v_t


def n_step_returns(
    r_t: Array, v_t: Array, v_tp1: Array, episode_lengths: Array, gamma: float | Array, n: int
) -> Array:
    """Return [B] r_t + ... + gamma^n V(s_{t+n}), reward units; shorter at an episode's end.

    Args:
        r_t: [B] float64, environment units.
        v_t: [B] float64. V(s_t).
        v_tp1: [B] float64. V(s_{t+1}), as `next_values` gives it.
        episode_lengths: [E] integer.
        gamma: Discount in [0, 1], or [B] float64, one a step.
        n: Rewards to sum, at least 1.

    Raises:
        ShapeError: the lengths disagree.

    Source: Sutton and Barto 2018, eq. 7.1.
    """
    ends = last_steps("n_step_returns", episode_lengths, r_t, v_t, v_tp1, gamma)
    at_end = r_t[ends] + _at(gamma, ends) * v_tp1[ends]
    g_t, inner = _copied(v_t), _at(gamma, slice(-1))
    # Each pass adds one reward; more passes than steps of an episode change nothing.
    for _ in range(min(n, int(episode_lengths.max()))):
        g_t[:-1] = r_t[:-1] + inner * g_t[1:]
        g_t[ends] = at_end
    return g_t


def gae(
    r_t: Array,
    v_t: Array,
    v_tp1: Array,
    episode_lengths: Array,
    gamma: float | Array,
    gae_lambda: float,
) -> Array:
    """Return generalised advantage estimates: the sum of (gamma lambda)^k delta_{t+k}.

    Args:
        r_t: [B] float64, environment units.
        v_t: [B] float64. V(s_t).
        v_tp1: [B] float64. V(s_{t+1}), as `next_values` gives it: time limits bootstrap.
        episode_lengths: [E] integer.
        gamma: Discount in [0, 1], or [B] float64, one a step.
        gae_lambda: In [0, 1]; 0 gives TD errors, 1 gives G_t - V(s_t).

    Returns:
        [B] float64, reward units. Zero mean is not implied; nothing is normalised.

    Raises:
        ShapeError: the lengths disagree.

    Source: Schulman et al. 2016, eq. 16, arXiv:1506.02438. Differs: time limits bootstrap.
    """
    ends = last_steps("gae", episode_lengths, r_t, v_t, v_tp1, gamma)
    coefficient = _discounts(ends, gamma * gae_lambda)
    errors = td_errors(r_t, v_t, v_tp1, gamma)
    return discounted_sum(errors, coefficient, episode_lengths)


def _copied(x_t: Array) -> Array:
    """Return [B] float64 that may be written."""
    return np.array(x_t, np.float64) if place_of(x_t) is None else x_t.copy()


def _check_same_length(where: str, left: Array, right: Array) -> None:
    """Raise ShapeError unless both have the same number of rows."""
    if len(left) != len(right):
        raise ShapeError(
            f"{where}: expected arrays of one length, got {len(left)} and {len(right)}; "
            "pass values for the same steps"
        )


def _at(gamma: float | Array, index: Array | slice) -> float | Array:
    """Return the discounts of some steps; one number is that of all."""
    return gamma[index] if isinstance(gamma, ARRAYS) else gamma


def last_steps(where: str, episode_lengths: Array, x_t: Array, *further: Array | float) -> Array:
    """Return [E] the index of each episode's last step; ShapeError if [B] arrays do not fit."""
    ends = episode_lengths.cumsum() - 1
    if len(ends) == 0 or ends[-1] + 1 != len(x_t):
        raise ShapeError(
            f"{where}: expected lengths that sum to {len(x_t)}, the number of steps, "
            f"got {int(episode_lengths.sum())}; check both"
        )
    for y_t in further:
        if isinstance(y_t, ARRAYS):
            _check_same_length(where, x_t, y_t)
    return ends
