"""What another policy's episodes do to an estimator: whether it makes up for them, wholly or in part, is told of them, or learns from any."""

from __future__ import annotations

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.errors import PgcoreError
from pgcore.estimator import Estimator
from pgcore.exact.episodes import all_episodes
from pgcore.exact.estimates import Estimates, sample
from pgcore.exact.mdp import MDP
from pgcore.exact.moments import couples, moments
from pgcore.exact.needs import extras
from pgcore.exact.rows import flat_gradient
from pgcore.exact.tabulated import every_action, tabulated
from pgcore.policy import Policy

__all__ = [
    "OF_ACTIONS",
    "distance",
    "is_likelihood",
    "limits",
    "mixes_steps",
    "one_step_moves",
    "population_moves",
    "reads_behaviour",
]

# Quantities of a critic of actions: what it learns of one action does not depend on how often others are taken.
OF_ACTIONS = frozenset(("action_value", "action_values"))

# Rewards that a step is tried with, both ways round.
REWARD = 3.0

# How much more often than one action the policies of a population take the next: beyond the usual limits of ratios.
MORE = 3


def distance(one: Array, other: Array) -> float:
    """Return |one - other| relative to the longer of the two; NaN where both are 0, and nothing can be told."""
    size = max(float(np.linalg.norm(one)), float(np.linalg.norm(other)))
    return float(np.linalg.norm(one - other)) / size if size > 0 else float("nan")


def one_step_moves(estimator: Estimator, mdp: MDP, policy: Policy, behaviour: Policy, batch: int) -> float:
    """Return how far another policy moves the expected gradient over episodes of one step, whose states do not depend on who acts.

    A critic of actions is left out: of an action that is taken more often it learns more, and nothing else.

    Returns:
        See `distance`.
    """
    first, counted = mdp.replaced(horizon=1), parameters_of(estimator, mdp, policy)
    if counted is None:
        return float("nan")
    own, others = (
        moments(first, policy, estimator, batch=batch, behaviour=each).mean[counted] for each in (policy, behaviour)
    )
    return distance(own, others)


def parameters_of(estimator: Estimator, mdp: MDP, policy: Policy) -> Array | None:
    """Return [D] bool: all parameters but those of a critic of actions; None where nothing else has a gradient."""
    if OF_ACTIONS.issuperset(estimator.quantities):
        return None
    own = tabulated(policy, mdp).own
    return own if OF_ACTIONS.intersection(estimator.quantities) else np.ones_like(own)


def population_moves(estimator: Estimator, mdp: MDP, policy: Policy) -> float:
    """Return how far who acted moves the gradient on a whole population: one batch with every episode of one step as often as it is probable.

    An estimator that makes of two such batches what it makes of one makes the same of any number, so this is its limit for large
    batches: what a ratio of means, biased on any finite batch, tends to. A critic of actions is left out, as in `one_step_moves`.

    Returns:
        The larger of what another policy, and what a second copy, moves; see `distance`.
    """
    counted = parameters_of(estimator, mdp, policy)
    if counted is None:
        return float("nan")
    found: list[Array] = []
    for turned in range(2):
        often = 1 + MORE * ((np.arange(mdp.actions) + np.arange(mdp.states)[:, None] + turned) % mdp.actions)
        acting = often / often.sum(axis=1, keepdims=True)
        members = np.repeat(np.arange(often.size), often.reshape(-1))
        batch = one_step_episodes(mdp, acting, mdp.mean_rewards.reshape(-1))
        found += [flat_gradient(policy, estimator, batch.steps(np.tile(members, copies)))[counted] for copies in (1, 2)]
    return max(distance(found[0], other) for other in found[1:])


def mixes_steps(estimator: Estimator, mdp: MDP, policy: Policy, batch: int) -> bool:
    """Whether an estimator makes of a batch of one-step episodes something else than the mean of what it makes of each."""
    first, table = mdp.replaced(horizon=1), tabulated(policy, mdp)
    episodes = all_episodes(first, table.probabilities)
    return couples(Estimates(first, table, estimator, episodes, table.probabilities), max(batch, 2))


def limits(estimator: Estimator, mdp: MDP, policy: Policy, behaviour: Policy) -> tuple[float, float]:
    """Return how often a step's reward counts, where another policy acts and ratios are limited.

    A reward's share is the probability of its step times what it moves the step's gradient. Relative to the share that it has where the
    current policy acts, a limited ratio leaves 1 for actions that the other policy takes more often than the current one, and less for
    those that it takes less often.

    Returns:
        How far shares are from 1 for the former, or in another direction or outside 0 to 1 for the latter; and the smallest share.
    """
    table = tabulated(policy, mdp)
    acting = [table.probabilities, tabulated(behaviour, mdp).probabilities]
    own, others = (
        probabilities.reshape(-1, 1) * reward_slopes(estimator, mdp, policy, probabilities) for probabilities in acting
    )
    moved = np.abs(own).max(axis=1) > 0
    if not moved.any():
        return float("nan"), float("nan")
    often = (acting[1] >= acting[0]).reshape(-1)[moved]
    own, others = own[moved], others[moved]
    size = (own * own).sum(axis=1)
    share = (own * others).sum(axis=1) / size
    wanted = np.where(often, 1.0, share.clip(0.0, 1.0))
    off = np.linalg.norm(others - wanted[:, None] * own, axis=1) / np.sqrt(size)
    return float(off.max()), float(share.min())


def reward_slopes(estimator: Estimator, mdp: MDP, policy: Policy, acting: Array) -> Array:
    """Return [S A, D] what a step's reward moves its gradient, where it is an episode and a batch by itself."""
    good, bad = (one_step_episodes(mdp, acting, np.full(acting.size, reward)) for reward in (REWARD, -REWARD))
    slopes = [
        flat_gradient(policy, estimator, good.steps([row])) - flat_gradient(policy, estimator, bad.steps([row]))
        for row in range(acting.size)
    ]
    return np.array(slopes) / (2.0 * REWARD)


def one_step_episodes(mdp: MDP, acting: Array, rewards: Array) -> Batch:
    """Return every action in every state as an episode of its own, chosen by a policy of [S, A] probabilities, with [S A] rewards."""
    described = {name: value.reshape(-1, *value.shape[2:]) for name, value in extras(mdp, acting).items()}
    return every_action(mdp, rewards=rewards, log_probs=np.log(acting).reshape(-1), extras=described)


def reads_behaviour(estimator: Estimator, mdp: MDP, policy: Policy, behaviour: Policy, batch: int) -> float:
    """Return how far gradients on another policy's episodes move where the batch says that the current one acted; see `distance`."""
    table, other = tabulated(policy, mdp), tabulated(behaviour, mdp).probabilities
    episodes = all_episodes(mdp, other)
    chosen = sample(len(episodes), batch)
    told, wrongly = (
        Estimates(mdp, table, estimator, episodes, each).gradients(chosen) for each in (other, table.probabilities)
    )
    return distance(told, wrongly)


def is_likelihood(estimator: Estimator, mdp: MDP, policy: Policy) -> bool:
    """Whether every step by itself makes its action more probable, good or bad: a likelihood, weighed, of whatever was done."""
    table = tabulated(policy, mdp)
    scores = table.scores.reshape(-1, table.scores.shape[2])
    try:
        for reward in (REWARD, -REWARD):
            batch = one_step_episodes(mdp, table.probabilities, np.full(len(scores), reward))
            for row, score in enumerate(scores):
                if not flat_gradient(policy, estimator, batch.steps([row])) @ score < 0:
                    return False
    except PgcoreError:
        return False  # an episode by itself says nothing to it
    return True
