"""Exact values, visits and policy gradients: by dynamic programming up to a horizon, by one linear solve without."""

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

    Returns:
        [H + 1, S] with row t for time t and zeros at the horizon H, or [S] where there is no horizon; reward units.

    Raises:
        MDPError: there is no horizon, gamma is 1 and an episode need not end.
    """
    pi = tabulated(policy, mdp).probabilities
    if mdp.horizon is None:
        return _solved(mdp, pi, mdp.gamma, (pi * mdp.mean_rewards).sum(axis=1), transposed=False)
    backups = [0 * (pi * mdp.mean_rewards).sum(axis=1)]
    for _ in range(mdp.horizon):
        backups.append((pi * _backed_up(mdp, backups[-1])).sum(axis=1))
    return np.array(backups[::-1])


def action_values(mdp: MDP, policy: Policy | Tabulated) -> Array:
    """Return Q, [H, S, A] by time or [S, A] where there is no horizon, reward units. Raises as `values` does."""
    v_t = values(mdp, policy)
    if mdp.horizon is None:
        return _backed_up(mdp, v_t)
    return np.array([_backed_up(mdp, after) for after in v_t[1:]])


def visits(mdp: MDP, policy: Policy | Tabulated, *, gamma: Any = 1) -> Array:
    """Return how often each state is acted in, a visit at time t counting gamma^t.

    Returns:
        [H, S] by time, or [S] in all where there is no horizon.

    Raises:
        MDPError: as `values`.
    """
    pi = tabulated(policy, mdp).probabilities
    start = np.where(mdp.ends, 0 * mdp.initial, mdp.initial)
    if mdp.horizon is None:
        return np.where(mdp.ends, 0.0, _solved(mdp, pi, gamma, start, transposed=True))
    chain, visited = _chain(mdp, pi), [start]
    for _ in range(mdp.horizon - 1):
        visited.append(gamma * np.where(mdp.ends, 0 * start, visited[-1] @ chain))
    return np.array(visited)


def objective(mdp: MDP, policy: Policy | Tabulated) -> Any:
    """Return J, the expected discounted return of an episode, reward units. Raises as `values` does."""
    v_t = values(mdp, policy)
    return mdp.initial @ (v_t if mdp.horizon is None else v_t[0])


def gradient(mdp: MDP, policy: Policy | Tabulated, *, discount_state: bool = True) -> Array:
    """Return the exact gradient of the loss -J, what `pgcore.gradient` of an unbiased estimator is on average.

    Args:
        mdp: The process; its gamma is the objective's.
        policy: Any policy over its actions, or a table of one.
        discount_state: Weigh a visit at time t by gamma^t, as the gradient of J does; False leaves that out, as most estimators do.

    Returns:
        [D] - sum_t sum_s d_t(s) sum_a pi(a given s) Q_t(s, a) score(s, a), in canonical parameter order, reward units.

    Raises:
        MDPError: as `values`; the policy's actions are not the process's.

    Source: Sutton et al. 2000, "Policy gradient methods for reinforcement learning with function approximation", theorem 1.
    """
    table = tabulated(policy, mdp)
    d_t, q_t = (
        visits(mdp, table, gamma=mdp.gamma if discount_state else 1),
        action_values(mdp, table),
    )
    weights = d_t[..., None] * table.probabilities * q_t
    return -np.tensordot(weights if mdp.horizon is None else weights.sum(axis=0), table.scores, 2)


def gradient_terms(mdp: MDP, policy: Policy | Tabulated) -> Array:
    """Return [D] what `gradient` would be if none of its terms cancelled: the sum of their sizes. Raises as `gradient` does."""
    table = tabulated(policy, mdp)
    weights = visits(mdp, table)[..., None] * table.probabilities * abs(action_values(mdp, table))
    return np.tensordot(
        weights if mdp.horizon is None else weights.sum(axis=0), abs(table.scores), 2
    )


def time_blind_values(mdp: MDP, policy: Policy | Tabulated) -> Array:
    """Return [S], the mean over all visits of the time-indexed V: the best that a critic can do that is not told the time.

    States that are never acted in get 0.

    Raises:
        MDPError: there is no horizon, so that values do not depend on the time.
    """
    if mdp.horizon is None:
        raise MDPError(
            "time_blind_values: expected a finite horizon, got none; `values` are the same at every time"
        )
    d_t, v_t = visits(mdp, policy), values(mdp, policy)[:-1]
    total = d_t.sum(axis=0)
    mean: Array = (d_t * v_t).sum(axis=0) / np.where(total > 0, total, 1)
    return mean * (total > 0)


def _backed_up(mdp: MDP, after: Array) -> Array:
    """Return [S, A] r + gamma E[V(s')]."""
    return mdp.mean_rewards + mdp.gamma * (mdp.moves @ after)


def _chain(mdp: MDP, pi: Array) -> Array:
    """Return [S, S] the probability of each next state under the policy."""
    return (pi[:, :, None] * mdp.moves).sum(axis=1)


def _solved(mdp: MDP, pi: Array, gamma: Any, right: Array, *, transposed: bool) -> Array:
    """Return x with (I - gamma P) x = right, or of the transposed system."""
    chain = _chain(mdp, pi)
    # (I - gamma P)^-1 is the sum of the powers of gamma P, which exists where episodes end or are discounted.
    eigenvalues = cast("Array", np.linalg.eigvals(gamma * chain))
    if np.abs(eigenvalues).max() > 1 - 1e-12:
        raise MDPError(
            f"exact: expected every episode to end or to be discounted where there is no horizon, got gamma {gamma} and states that are "
            "never left; give a horizon, or a gamma below 1"
        )
    system = np.eye(mdp.states) - gamma * (chain.T if transposed else chain)
    return cast("Array", np.linalg.solve(system, right))
