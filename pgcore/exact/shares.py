"""How often a step's reward counts where another policy acts: what limited ratios make of it."""

from __future__ import annotations

import math

import numpy as np

from pgcore.arrays import Array
from pgcore.estimator import Estimator
from pgcore.exact.mdp import MDP
from pgcore.exact.rows import flat_gradient
from pgcore.exact.tabulated import tabulated
from pgcore.exact.trials import REWARD, Trial, trials
from pgcore.policy import Policy

__all__ = ["limits"]


def limits(estimator: Estimator, mdp: MDP, policy: Policy, behaviour: Policy) -> tuple[float, float]:
    """Return how often a step's reward counts, where another policy acts and ratios are limited: of steps alone and of second ones.

    A reward's share is the probability of its step times what it moves the step's gradient. Relative to the share that it has where the
    current policy acts, a limited ratio leaves 1 for actions that the other policy takes more often than the current one, and less for
    those that it takes less often. What the gradient is without a reward has the same share, but for what the state alone tells, as
    an entropy bonus. So that the two can be told apart a third policy acts too, which prefers what the other one avoids.

    Returns:
        How far shares are from 1 for the former, or in another direction or outside 0 to 1 for the latter, or from the rest's;
        and the smallest share.
    """
    found = [
        limits_of(trial, estimator, mdp, policy, behaviour)
        for trial in trials(mdp, policy, np.ones_like(tabulated(policy, mdp).own))
    ]
    if math.isnan(found[0][0]) or math.isnan(found[-1][0]):
        return found[0]
    return max(off for off, _ in found), min(least for _, least in found)


def limits_of(trial: Trial, estimator: Estimator, mdp: MDP, policy: Policy, behaviour: Policy) -> tuple[float, float]:
    """Return what `limits` does, of one kind of steps."""
    current, other = (tabulated(each, mdp).probabilities for each in (policy, behaviour))
    acting = (current, other, mirrored(current, other))
    (own, rest), *others = (each.reshape(-1, 1) * reward_lines(trial, estimator, policy, each) for each in acting)
    size = (own * own).sum(axis=1)
    moved = size > 0
    if not moved.any():
        return float("nan"), float("nan")
    shares: list[Array] = []
    lefts: list[Array] = []
    factors: list[Array] = []
    off = 0.0
    for each, (slopes, middles) in zip(acting[1:], others, strict=True):
        share = (own * slopes).sum(axis=1) / np.where(moved, size, 1.0)
        wanted = np.where((each >= current).reshape(-1), 1.0, share.clip(0.0, 1.0))
        distances = np.linalg.norm(slopes - wanted[:, None] * own, axis=1)[moved] / np.sqrt(size[moved])
        off = max(off, float(distances.max()))
        shares.append(share[moved])
        lefts.append((middles - wanted[:, None] * rest).reshape(mdp.states, mdp.actions, -1))
        factors.append(each - wanted.reshape(each.shape) * current)
    differing = np.linalg.norm(unlike(np.concatenate(lefts, axis=1), np.concatenate(factors, axis=1)), axis=(1, 2))
    scale = np.sqrt(((rest * rest).sum(axis=1) + size).reshape(current.shape).sum(axis=1))
    known = moved.reshape(current.shape).all(axis=1)
    return max(off, float((differing[known] / scale[known]).max(initial=0.0))), float(np.min(shares))


def mirrored(current: Array, other: Array) -> Array:
    """Return [S, A] a policy that takes each action as much more often than the current one as the other takes it less often."""
    found = current * (current / other)
    return found / found.sum(axis=1, keepdims=True)


def unlike(found: Array, factor: Array) -> Array:
    """Return what of [S, A, D] is no multiple, by the [S, A] factors, of one vector for each state, in least squares."""
    square = (factor * factor).sum(axis=1)
    common = np.einsum("sa,sad->sd", factor, found) / np.where(square > 0, square, 1.0)[:, None]
    return found - factor[:, :, None] * common[:, None, :]


def reward_lines(trial: Trial, estimator: Estimator, policy: Policy, acting: Array) -> Array:
    """Return [2, S A, D] what a step's reward moves its gradient, and the gradient half way between a good and a bad reward.

    Each episode is a batch by itself.
    """
    good, bad = (trial.batch(acting, np.full(acting.size, reward)) for reward in (REWARD, -REWARD))
    ends = np.array(
        [
            [flat_gradient(policy, estimator, batch.episodes([row]))[trial.counted] for row in range(acting.size)]
            for batch in (good, bad)
        ]
    )
    return np.array([(ends[0] - ends[1]) / (2.0 * REWARD), (ends[0] + ends[1]) / 2.0])
