"""What another policy's episodes do to an estimator: whether it makes up for them, is told of them, or learns from any."""

from __future__ import annotations

import numpy as np

from pgcore.arrays import Array
from pgcore.errors import PgcoreError
from pgcore.estimator import Estimator
from pgcore.exact.episodes import all_episodes
from pgcore.exact.estimates import Estimates, sample
from pgcore.exact.mdp import MDP
from pgcore.exact.moments import moments
from pgcore.exact.needs import extras
from pgcore.exact.rows import flat_gradient
from pgcore.exact.tabulated import every_action, tabulated
from pgcore.policy import Policy

__all__ = ["OF_ACTIONS", "distance", "is_likelihood", "one_step_moves", "reads_behaviour"]

# Quantities of a critic of actions: what it learns of one action does not depend on how often others are taken.
OF_ACTIONS = frozenset(("action_value", "action_values"))

# Rewards that a likelihood is tried with, both ways round.
REWARD = 3.0


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
    first = mdp.replaced(horizon=1)
    counted = tabulated(policy, mdp).own if OF_ACTIONS.intersection(estimator.quantities) else slice(None)
    if OF_ACTIONS.issuperset(estimator.quantities):
        return float("nan")
    own, others = (
        moments(first, policy, estimator, batch=batch, behaviour=each).mean[counted] for each in (policy, behaviour)
    )
    return distance(own, others)


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
    described = {name: value.reshape(-1, *value.shape[2:]) for name, value in extras(mdp, table.probabilities).items()}
    scores = table.scores.reshape(-1, table.scores.shape[2])
    log_probs = np.log(table.probabilities).reshape(-1)
    try:
        for reward in (REWARD, -REWARD):
            batch = every_action(mdp, rewards=np.full(len(scores), reward), log_probs=log_probs, extras=described)
            for row, score in enumerate(scores):
                if not flat_gradient(policy, estimator, batch.steps([row])) @ score < 0:
                    return False
    except PgcoreError:
        return False  # an episode by itself says nothing to it
    return True
