"""Steps that an estimator is tried on: every action in every state, alone or second in an episode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.exact.mdp import MDP
from pgcore.exact.needs import extras
from pgcore.exact.tabulated import every_action, tabulated
from pgcore.policy import Policy
from pgcore.spec import Table

__all__ = ["REWARD", "Trial", "one_step_episodes", "trials"]

# Rewards that a step is tried with, both ways round.
REWARD = 3.0

# Where there are more steps to try, they are tried alone.
MOST_SECOND = 400


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
