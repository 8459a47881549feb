"""Exact values, visits and policy gradients.

Up to a horizon they come from dynamic programming, without one from a linear solve.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from pgcore.errors import MDPError
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore_exact.process.mdp import MDP
from pgcore_exact.process.tabulated import Tabulated, tabulated

__all__ = [
    "action_values",
    "gradient",
    "gradient_terms",
    "objective",
    "time_blind_values",
    "values",
    "visits",
]


def values(mdp: MDP, policy: Policy | Tabulated) -> Array:
    """Return V, the expected discounted return from each state on.

    Args:
        mdp: The process; its gamma discounts.
        policy: Any policy over its actions, or a table of one.

    Returns:
        [H + 1, S] with row t for time t and zeros at the horizon H, or [S] where there is no
        horizon; reward units.

    Raises:
        MDPError: there is no horizon, gamma is 1 and an episode need not end.
    """
    pi = tabulated(policy, mdp).probabilities
    if mdp.horizon is None:
        return _solve(mdp, pi, mdp.gamma, (pi * mdp.mean_rewards).sum(axis=1), transposed=False)
    # Zeros of the numbers' own type, from the horizon backwards.
    backups = [0 * (pi * mdp.mean_rewards).sum(axis=1)]
    for _ in range(mdp.horizon):
        backups.append((pi * _back_up(mdp, backups[-1])).sum(axis=1))
    return np.array(backups[::-1])


def action_values(mdp: MDP, policy: Policy | Tabulated) -> Array:
    """Return Q in reward units, [H, S, A] by time or [S, A] without a horizon; see `values`."""
    v_t = values(mdp, policy)
    if mdp.horizon is None:
        return _back_up(mdp, v_t)
    return np.array([_back_up(mdp, after) for after in v_t[1:]])


def visits(mdp: MDP, policy: Policy | Tabulated, *, gamma: Any = 1) -> Array:
    """Return the expected number of actions taken in each state, weighed by gamma^t.

    Args:
        mdp: The process.
        policy: Any policy over its actions, or a table of one.
        gamma: Weight of each further step; 1 counts the visits.

    Returns:
        [H, S] by time, or [S] in total where there is no horizon.

    Raises:
        MDPError: as `values`.
    """
    pi = tabulated(policy, mdp).probabilities
    # Nothing is done in a terminal state.
    start = np.where(mdp.ends, 0 * mdp.initial, mdp.initial)
    if mdp.horizon is None:
        return np.where(mdp.ends, 0.0, _solve(mdp, pi, gamma, start, transposed=True))
    chain, visited = _transition(mdp, pi), [start]
    for _ in range(mdp.horizon - 1):
        visited.append(gamma * np.where(mdp.ends, 0 * start, visited[-1] @ chain))
    return np.array(visited)


def objective(mdp: MDP, policy: Policy | Tabulated) -> Any:
    """Return J, the expected discounted return of an episode in reward units; see `values`."""
    v_t = values(mdp, policy)
    return mdp.initial @ (v_t if mdp.horizon is None else v_t[0])


def gradient(mdp: MDP, policy: Policy | Tabulated, *, discount_state: bool = True) -> Array:
    """Return the exact gradient of the loss -J: the mean of an unbiased `pgcore.gradient`.

    Args:
        mdp: The process; its gamma is the objective's.
        policy: Any policy over its actions, or a table of one.
        discount_state: Weigh a visit at time t by gamma^t, as the gradient of J does. Most
            estimators leave that out, as False does.

    Returns:
        [D] - sum_t sum_s d_t(s) sum_a pi(a given s) Q_t(s, a) score(s, a), in canonical parameter
        order, reward units.

    Raises:
        MDPError: as `values`; the policy's actions are not the process's.

    Source: Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function
    approximation", theorem 1.
    """
    table = tabulated(policy, mdp)
    d_t = visits(mdp, table, gamma=mdp.gamma if discount_state else 1)
    q_t = action_values(mdp, table)
    weights = d_t[..., None] * table.probabilities * q_t
    return -np.tensordot(weights if mdp.horizon is None else weights.sum(axis=0), table.scores, 2)


def gradient_terms(mdp: MDP, policy: Policy | Tabulated) -> Array:
    """Return [D] the sum of the absolute terms of `gradient`, a scale for its rounding."""
    table = tabulated(policy, mdp)
    weights = visits(mdp, table)[..., None] * table.probabilities * abs(action_values(mdp, table))
    weights = weights if mdp.horizon is None else weights.sum(axis=0)
    return np.tensordot(weights, abs(table.scores), 2)


def time_blind_values(mdp: MDP, policy: Policy | Tabulated) -> Array:
    """Return [S], the best values without the time: the mean of the time-indexed V over all visits.

    States without visits get 0.

    Args:
        mdp: A process with a horizon.
        policy: Any policy over its actions, or a table of one.

    Raises:
        MDPError: there is no horizon, so that values do not depend on the time.
    """
    if mdp.horizon is None:
        raise MDPError(
            "time_blind_values: expected a finite horizon, got none; "
            "`values` are the same at every time"
        )
    d_t, v_t = visits(mdp, policy), values(mdp, policy)[:-1]
    total = d_t.sum(axis=0)
    mean: Array = (d_t * v_t).sum(axis=0) / np.where(total > 0, total, 1)
    return mean * (total > 0)


def _back_up(mdp: MDP, after: Array) -> Array:
    """Return [S, A] r + gamma E[V(s')]."""
    return mdp.mean_rewards + mdp.gamma * (mdp.moves @ after)


def _transition(mdp: MDP, pi: Array) -> Array:
    """Return [S, S] the probability of each next state under the policy."""
    return (pi[:, :, None] * mdp.moves).sum(axis=1)


def _solve(mdp: MDP, pi: Array, gamma: Any, right: Array, *, transposed: bool) -> Array:
    """Return x with (I - gamma P) x = right, or the transposed system's.

    Args:
        mdp: The process.
        pi: [S, A] probabilities.
        gamma: Discount.
        right: [S] right-hand side.
        transposed: Whether P is transposed.
    """
    chain = _transition(mdp, pi)
    # (I - gamma P)^-1 is the sum of the powers of gamma P, if episodes end or are discounted.
    eigenvalues = cast("Array", np.linalg.eigvals(gamma * chain))
    if np.abs(eigenvalues).max() > 1 - 1e-12:
        raise MDPError(
            "exact: expected every episode to end or to be discounted where there is no horizon, "
            f"got gamma {gamma} and states that are never left; give a horizon, or a gamma below 1"
        )
    system = np.eye(mdp.states) - gamma * (chain.T if transposed else chain)
    return cast("Array", np.linalg.solve(system, right))
