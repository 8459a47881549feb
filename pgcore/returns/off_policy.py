"""Signals for batches from another policy: importance ratios, V-trace and Retrace.

A log ratio is log pi(a_t given s_t) - log mu(a_t given s_t), nats, with mu the behaviour policy.
"""

from __future__ import annotations

import math

import numpy as np

from pgcore.returns.discounted import discounted_sum, last_steps, next_values, td_errors
from pgcore.validation.arrays import Array

__all__ = ["cumulative_log_ratios", "limited_ratios", "retrace", "vtrace"]


def cumulative_log_ratios(log_ratio_t: Array, episode_lengths: Array) -> Array:
    """Return [B] float64: the sum of the log ratios from each episode's first step to each step.

    Args:
        log_ratio_t: [B] float64, nats.
        episode_lengths: [E] integer.

    Raises:
        ShapeError: the lengths do not sum to B.
    """
    ends = last_steps("cumulative_log_ratios", episode_lengths, log_ratio_t)
    # The recursion runs backwards in time, so both arrays are reversed.
    goes_on = np.ones(len(log_ratio_t))
    goes_on[ends + 1 - episode_lengths] = 0.0
    return discounted_sum(log_ratio_t[::-1], goes_on[::-1], episode_lengths)[::-1]


def limited_ratios(log_ratio_t: Array, limit: float) -> Array:
    """Return [B] min(limit, exp(log ratio)); the exponential cannot overflow.

    Args:
        log_ratio_t: [B] float64, nats.
        limit: Positive, may be infinite.
    """
    return np.exp(np.minimum(log_ratio_t, math.log(limit)))


def vtrace(
    r_t: Array,
    v_t: Array,
    v_tp1: Array,
    log_ratio_t: Array,
    episode_lengths: Array,
    gamma: float | Array,
    *,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    trace_lambda: float = 1.0,
    pg_rho_bar: float | None = None,
    bootstrap: str = "target",
    weighted: bool = True,
) -> tuple[Array, Array]:
    """Return V-trace targets and policy-gradient advantages.

    With rho = min(rho_bar, ratio) and c = trace_lambda min(c_bar, ratio), the target v is V(s_t)
    plus the sum over k of gamma^k (c_t ... c_{t+k-1}) rho_{t+k} delta_{t+k}, and the advantage is
    min(pg_rho_bar, ratio) (r_t + gamma q_{t+1} - V(s_t)).

    Args:
        r_t: [B] float64, environment units.
        v_t: [B] float64. V(s_t).
        v_tp1: [B] float64. V(s_{t+1}), as `next_values` gives it: time limits bootstrap.
        log_ratio_t: [B] float64, nats.
        episode_lengths: [E] integer.
        gamma: Discount in [0, 1], or [B] float64, one a step.
        rho_bar: Limit of the ratios that weigh TD errors; positive, may be infinite.
        c_bar: Limit of the ratios that shorten traces; positive, may be infinite.
        trace_lambda: In [0, 1]; as in GAE.
        pg_rho_bar: Limit of the advantage's ratio; None is `rho_bar`.
        bootstrap: q_{t+1}: "target" for v_{t+1}, "mixed" for trace_lambda v_{t+1} plus
            (1 - trace_lambda) V(s_{t+1}). Both are V(s_{t+1}) after an episode's last step.
        weighted: Whether the advantage has its ratio; without, for a term that has one itself.

    Returns:
        [B] targets and [B] advantages, float64, reward units.

    Raises:
        ShapeError: the lengths disagree.

    Example:
        >>> one = np.ones(1)
        >>> vtrace(one, 0 * one, 0 * one, np.log([3.0]), np.array([1]), 0.9, pg_rho_bar=2.0)
        (array([1.]), array([2.]))

    Source: Espeholt et al. 2018, eq. 1 and sec. 4.2, arXiv:1802.01561; "mixed": rlax,
    `vtrace_td_error_and_advantage`.
    """
    ends = last_steps("vtrace", episode_lengths, r_t, v_t, v_tp1, log_ratio_t, gamma)
    rho = limited_ratios(log_ratio_t, rho_bar)
    # A 0 at each episode's last step keeps episodes apart.
    coefficient = gamma * trace_lambda * limited_ratios(log_ratio_t, c_bar)
    coefficient[ends] = 0.0
    errors = rho * td_errors(r_t, v_t, v_tp1, gamma)
    target = v_t + discounted_sum(errors, coefficient, episode_lengths)
    q_tp1 = next_values(target, episode_lengths, v_tp1[ends])
    if bootstrap == "mixed":
        q_tp1 = trace_lambda * q_tp1 + (1.0 - trace_lambda) * v_tp1
    advantage = td_errors(r_t, v_t, q_tp1, gamma)
    if not weighted:
        return target, advantage
    weight = rho if pg_rho_bar is None else limited_ratios(log_ratio_t, pg_rho_bar)
    return target, weight * advantage


def retrace(
    r_t: Array,
    q_t: Array,
    v_tp1: Array,
    log_ratio_t: Array,
    episode_lengths: Array,
    gamma: float | Array,
    trace_lambda: float = 1.0,
) -> Array:
    """Return [B] float64 Retrace targets of Q(s_t, a_t), reward units.

    Args:
        r_t: [B] float64, environment units.
        q_t: [B] float64. Q(s_t, a_t).
        v_tp1: [B] float64. The current policy's mean of Q(s_{t+1}, .), 0 after a terminal step.
        log_ratio_t: [B] float64, nats.
        episode_lengths: [E] integer.
        gamma: Discount in [0, 1], or [B] float64, one a step.
        trace_lambda: In [0, 1].

    Raises:
        ShapeError: the lengths disagree.

    Source: Munos et al. 2016, eqs. 3 and 4, arXiv:1606.02647.
    """
    ends = last_steps("retrace", episode_lengths, r_t, q_t, v_tp1, log_ratio_t, gamma)
    # A trace is shortened by the ratio of the step that follows, min(1, ratio).
    coefficient = np.zeros_like(log_ratio_t, np.float64)
    coefficient[:-1] = trace_lambda * limited_ratios(log_ratio_t[1:], 1.0)
    coefficient *= gamma
    coefficient[ends] = 0.0
    errors = td_errors(r_t, q_t, v_tp1, gamma)
    return q_t + discounted_sum(errors, coefficient, episode_lengths)
