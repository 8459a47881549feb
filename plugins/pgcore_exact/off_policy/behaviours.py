"""Episodes of a behaviour policy: batches of them, and an estimator's limit on many of them."""

from __future__ import annotations

from typing import cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore_exact.expectation.needs import extras
from pgcore_exact.expectation.rows import flat_gradient
from pgcore_exact.process.dynamics import gradient
from pgcore_exact.process.episodes import Episodes, all_episodes
from pgcore_exact.process.mdp import MDP, finite_horizon
from pgcore_exact.process.tabulated import tabulated

__all__ = ["batch_of", "distance", "population_bias"]

# Odds of a population's preferred action to any other one: ratios beyond their usual limits.
PREFERENCE = 4

# Episodes of a population: its batch, and the one of two copies, fit into memory.
MOST_MEMBERS = 50_000


def distance(left: Array, right: Array) -> float:
    """Return |left - right| relative to the longer of the two; NaN where both are 0."""
    size = max(float(np.linalg.norm(left)), float(np.linalg.norm(right)))
    return float(np.linalg.norm(left - right)) / size if size > 0 else float("nan")


def batch_of(
    estimator: Estimator,
    mdp: MDP,
    episodes: Episodes,
    members: Array,
    behaviour: Array,
    values: Array | None = None,
) -> Batch:
    """Return some episodes as a batch.

    Args:
        estimator: Declares extras.
        mdp: Their process.
        episodes: All episodes.
        members: [N] integer. The numbers of the batch's episodes; one may occur more than once.
        behaviour: [S, A] float64. The behaviour policy's probabilities.
        values: [S] float64 or None. Recorded values; None leaves them to the current critic.
    """
    lengths = episodes.lengths[members]
    # [B] the members' steps among all episodes' steps.
    ends = lengths.cumsum()
    shifts = np.repeat(episodes.starts[members] - ends + lengths, lengths)
    steps = cast("Array", np.arange(ends[-1]) + shifts)
    rows = episodes.states[steps], episodes.actions[steps]
    return Batch(
        observations=mdp.seen[rows[0]],
        actions=rows[1],
        rewards=episodes.rewards[steps],
        episode_lengths=lengths,
        terminated=episodes.terminated[members],
        final_observations=mdp.seen[episodes.final_states[members]],
        log_probs=np.log(behaviour[rows]),
        values=None if values is None else values[rows[0]],
        extras={name: value[rows] for name, value in extras(mdp, behaviour, estimator).items()},
    )


def population_bias(estimator: Estimator, mdp: MDP, policy: Policy) -> float:
    """Return the relative bias on a whole population of a behaviour policy's episodes.

    A population is a batch in which an episode's frequency is its probability. An estimator with
    one gradient on one copy and on two has it on any number, so this is its limit for large
    batches. A ratio of means, which is biased on any finite batch, can be exact in that limit.

    Args:
        estimator: The estimator.
        mdp: Its states, rewards and horizon are the population's; a long horizon is shortened.
        policy: The current policy.

    Returns:
        The larger bias of one copy and of two; NaN where the exact gradient is 0.
    """
    process, behaviour = population_process(mdp)
    episodes = all_episodes(process, behaviour)
    members = np.repeat(np.arange(len(episodes)), frequencies(episodes, process))
    table = tabulated(policy, process)
    mask = table.actor_mask
    copies: list[Array] = []
    for number in (1, 2):
        batch = batch_of(estimator, process, episodes, np.tile(members, number), behaviour)
        copies.append(flat_gradient(policy, estimator, batch)[mask])
    # As in an audit, the exact gradient is the nearer one of both.
    exacts = [gradient(process, table, discount_state=flag)[mask] for flag in (True, False)]
    exact = min(exacts, key=lambda vector: float(np.linalg.norm(copies[0] - vector)))
    size = float(np.linalg.norm(exact))
    bias = max(float(np.linalg.norm(copy - exact)) for copy in copies)
    return bias / size if size > 0 else float("nan")


def population_process(mdp: MDP) -> tuple[MDP, Array]:
    """Return a process and [S, A] of a behaviour policy, with commensurable probabilities.

    Next states are uniform, and so are first states among those that are not terminal.
    """
    behaviour = np.ones((mdp.states, mdp.actions))
    behaviour[np.arange(mdp.states), np.arange(mdp.states) % mdp.actions] = PREFERENCE
    # The longest horizon whose population fits.
    horizon = 1
    while (
        horizon < finite_horizon("population", mdp)
        and members_at_most(mdp, horizon + 1) <= MOST_MEMBERS
    ):
        horizon += 1
    process = mdp.replaced(
        transition=np.full(mdp.transition.shape, 1.0 / mdp.states),
        initial=~mdp.ends / (~mdp.ends).sum(),
        horizon=horizon,
    )
    return process, behaviour / behaviour.sum(axis=1, keepdims=True)


def members_at_most(mdp: MDP, horizon: int) -> int:
    """Return the size of a population of this horizon, a multiple of the smallest."""
    return int((~mdp.ends).sum()) * (mdp.states * (mdp.actions - 1 + PREFERENCE)) ** horizon


def frequencies(episodes: Episodes, process: MDP) -> Array:
    """Return [E] integer, the smallest whole numbers in proportion to the probabilities."""
    size = members_at_most(process, finite_horizon("population", process))
    counts = np.rint(episodes.probabilities * size).astype(np.int64)
    return counts // np.gcd.reduce(counts)
