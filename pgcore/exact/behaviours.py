"""What another policy's episodes do to an estimator: whether it makes up for them, wholly or in part, is told of them, or learns from any."""

from __future__ import annotations

import math

import numpy as np

from pgcore.arrays import Array
from pgcore.errors import NonFiniteError, PgcoreError
from pgcore.estimator import Estimator
from pgcore.exact.episodes import all_episodes
from pgcore.exact.estimates import Estimates, sample
from pgcore.exact.mdp import MDP
from pgcore.exact.moments import couples, moments
from pgcore.exact.rows import flat_gradient
from pgcore.exact.tabulated import tabulated
from pgcore.exact.trials import REWARD, one_step_episodes, trials
from pgcore.policy import Policy

__all__ = [
    "OF_ACTIONS",
    "distance",
    "is_likelihood",
    "mixes_steps",
    "one_step_moves",
    "population_moves",
    "reads_behaviour",
    "second_step_moves",
]

# Quantities of a critic of actions: what it learns of one action does not depend on how often others are taken.
OF_ACTIONS = frozenset(("action_value", "action_values"))

# Far beyond any constant that might be added to rewards.
FAR = 1e6

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
        moments(first, policy, estimator, batch=batch, behaviour=each).seen[counted] for each in (policy, behaviour)
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
    moves: list[float] = []
    for trial in trials(mdp, policy, counted):
        found: list[Array] = []
        for turned in range(2):
            often = 1 + MORE * ((np.arange(mdp.actions) + np.arange(mdp.states)[:, None] + turned) % mdp.actions)
            batch = trial.batch(often / often.sum(axis=1, keepdims=True), mdp.mean_rewards.reshape(-1))
            members = np.repeat(np.arange(often.size), often.reshape(-1))
            found += [
                flat_gradient(policy, estimator, batch.episodes(np.tile(members, copies)))[trial.counted]
                for copies in (1, 2)
            ]
        moves.append(max(distance(found[0], other) for other in found[1:]))
    # What is learnt of second steps may be nothing, and of steps alone not.
    return moves[0] if len(moves) == 1 or math.isnan(moves[1]) else max(moves)


def mixes_steps(estimator: Estimator, mdp: MDP, policy: Policy, batch: int) -> bool:
    """Whether an estimator makes of a batch of one-step episodes something else than the mean of what it makes of each."""
    first, table = mdp.replaced(horizon=1), tabulated(policy, mdp)
    episodes = all_episodes(first, table.probabilities)
    return couples(Estimates(first, table, estimator, episodes, table.probabilities), max(batch, 2))


def second_step_moves(estimator: Estimator, mdp: MDP, policy: Policy, behaviour: Policy) -> float:
    """Return how far another policy moves the expected gradient of second steps, relative to its terms; NaN where nothing can be told.

    A critic of actions is left out, as in `one_step_moves`.
    """
    counted = parameters_of(estimator, mdp, policy)
    later = [] if counted is None else list(trials(mdp, policy, counted))[1:]
    if not later:
        return float("nan")
    current = tabulated(policy, mdp).probabilities
    found: list[Array] = []
    for each in (current, tabulated(behaviour, mdp).probabilities):
        batch = later[0].batch(each, mdp.mean_rewards.reshape(-1))
        chances = np.concatenate([current[:1], each[1:]]).reshape(-1, 1)
        gradients = [flat_gradient(policy, estimator, batch.episodes([row])) for row in range(current.size)]
        found.append(chances * np.array(gradients)[:, later[0].counted])
    size = max(float(np.linalg.norm(abs(each).sum(axis=0))) for each in found)
    return float(np.linalg.norm(found[0].sum(axis=0) - found[1].sum(axis=0))) / size if size > 0 else float("nan")


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
    """Whether every step by itself makes its action more probable, good or bad: a likelihood, weighed, of whatever was done.

    The best and the worst rewards may leave it as it is, or overflow, but not make it less probable, as those that outweigh a constant do.
    """
    table = tabulated(policy, mdp)
    scores = table.scores.reshape(-1, table.scores.shape[2])
    for reward in (REWARD, -REWARD, FAR, -FAR):
        batch = one_step_episodes(mdp, table.probabilities, np.full(len(scores), reward))
        for row, score in enumerate(scores):
            try:
                along = float(flat_gradient(policy, estimator, batch.steps([row])) @ score)
            except NonFiniteError:
                if abs(reward) == FAR:
                    continue
                return False
            except PgcoreError:
                return False  # an episode by itself says nothing to it
            if not (along <= 0 if abs(reward) == FAR else along < 0):
                return False
    return True
