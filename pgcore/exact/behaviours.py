"""What another policy's episodes do to an estimator: whether it makes up for them, wholly or in part, is told of them, or learns from any."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.errors import NonFiniteError, PgcoreError
from pgcore.estimator import Estimator
from pgcore.exact.episodes import all_episodes
from pgcore.exact.estimates import Estimates, sample
from pgcore.exact.mdp import MDP
from pgcore.exact.moments import couples, moments
from pgcore.exact.needs import extras
from pgcore.exact.rows import flat_gradient
from pgcore.exact.tabulated import every_action, tabulated
from pgcore.policy import Policy
from pgcore.spec import Table

__all__ = [
    "OF_ACTIONS",
    "distance",
    "is_likelihood",
    "limits",
    "mixes_steps",
    "one_step_moves",
    "population_moves",
    "reads_behaviour",
    "second_step_moves",
]

# Quantities of a critic of actions: what it learns of one action does not depend on how often others are taken.
OF_ACTIONS = frozenset(("action_value", "action_values"))

# Rewards that a step is tried with, both ways round.
REWARD = 3.0

# Far beyond any constant that might be added to rewards.
FAR = 1e6

# How much more often than one action the policies of a population take the next: beyond the usual limits of ratios.
MORE = 3

# Where there are more steps to try, they are tried alone.
MOST_SECOND = 400


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


def one_step_episodes(mdp: MDP, acting: Array, rewards: Array) -> Batch:
    """Return every action in every state as an episode of its own, chosen by a policy of [S, A] probabilities, with [S A] rewards."""
    described = {name: value.reshape(-1, *value.shape[2:]) for name, value in extras(mdp, acting).items()}
    return every_action(mdp, rewards=rewards, log_probs=np.log(acting).reshape(-1), extras=described)


def second_steps(mdp: MDP, acting: Array, rewards: Array, current: Array) -> Batch:
    """Return every action in every state as the second step of an episode, chosen and paid as `one_step_episodes` has it.

    The first step is the same in all: the first action in the first state, without a reward, where the current policy acts.
    """
    same = np.concatenate([current[:1], acting[1:]])
    alone = one_step_episodes(mdp, same, rewards)
    steps = np.stack([np.zeros(same.size, np.intp), np.arange(same.size)], axis=1).reshape(-1)
    return every_action(
        mdp,
        observations=alone.observations[steps],
        actions=alone.actions[steps],
        rewards=np.stack([np.zeros(same.size), rewards], axis=1).reshape(-1),
        log_probs=None if alone.log_probs is None else alone.log_probs[steps],
        extras={name: value[steps] for name, value in alone.extras.items()},
        episode_lengths=np.full(same.size, 2),
    )


@dataclass(frozen=True)
class Trial:
    """Steps that an estimator is tried on: alone, or as second steps, where what the first step moves is left out.

    Attributes:
        batch: Returns all [S A] steps as episodes, given who acts and what is paid.
        counted: [D] bool. Which parameters are looked at.
    """

    batch: Callable[[Array, Array], Batch]
    counted: Array


def trials(mdp: MDP, policy: Policy, counted: Array) -> Iterator[Trial]:
    """Yield the steps alone, and then as second steps, where a table tells the first state from the others and they are not too many."""
    yield Trial(partial(one_step_episodes, mdp), counted)
    shapes = policy.spec.parameter_shapes.values()
    if not isinstance(policy.spec.network, Table) or mdp.states * mdp.actions > MOST_SECOND:
        return
    others = np.concatenate([np.repeat(np.arange(shape[0]) != mdp.seen[0], math.prod(shape[1:])) for shape in shapes])
    if (counted & others).any():
        current = tabulated(policy, mdp).probabilities
        yield Trial(partial(second_steps, mdp, current=current), counted & others)


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
