"""Episodes of another policy: batches of them, and the limit of an estimator on ever more of them."""

from __future__ import annotations

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore_exact.expectation.needs import extras
from pgcore_exact.expectation.rows import flat_gradient
from pgcore_exact.process.dynamics import gradient
from pgcore_exact.process.episodes import Episodes, all_episodes
from pgcore_exact.process.mdp import MDP, limit
from pgcore_exact.process.tabulated import tabulated

__all__ = ["batch_of", "distance", "population_bias"]

# How often the behaviour policy of a population takes its preferred action for once each other one: beyond the usual
# limits of ratios.
PREFERENCE = 4

# Episodes of a population; its batch, and the one of two copies, are computed at once.
MOST_MEMBERS = 50_000


def distance(left: Array, right: Array) -> float:
    """Return |left - right| relative to the longer of the two; NaN where both are 0, and nothing can be told."""
    size = max(float(np.linalg.norm(left)), float(np.linalg.norm(right)))
    return float(np.linalg.norm(left - right)) / size if size > 0 else float("nan")


def batch_of(
    mdp: MDP, episodes: Episodes, members: Array, behaviour: Array, values: Array | None = None
) -> Batch:
    """Return some episodes as a batch.

    Args:
        mdp: Their process.
        episodes: What the batch is taken from.
        members: [N] integer. The numbers of its episodes; one may occur more than once.
        behaviour: [S, A] float64. The behaviour policy's probabilities.
        values: [S] float64 or None. Recorded values; None leaves them to the current critic.
    """
    lengths = episodes.lengths[members]
    ends = lengths.cumsum()
    steps = np.arange(ends[-1]) + np.repeat(episodes.starts[members] - ends + lengths, lengths)
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
        extras={name: value[rows] for name, value in extras(mdp, behaviour).items()},
    )


def population_bias(estimator: Estimator, mdp: MDP, policy: Policy) -> float:
    """Return the relative bias on a whole population of another policy's episodes, a single batch.

    In a population every episode occurs as often as it is probable. An estimator that makes the same of one copy and of
    two makes the same of any number, so this is its limit for large batches. A ratio of means, which is biased on any
    finite batch, can be exact in that limit.

    Args:
        estimator: Run on the current policy.
        mdp: Its states, rewards and horizon are the population's; a long horizon is shortened to what fits.
        policy: The current policy.

    Returns:
        The larger bias of one copy and of two; NaN where the exact gradient is 0.
    """
    process, behaviour = population_process(mdp)
    episodes = all_episodes(process, behaviour)
    members = np.repeat(np.arange(len(episodes)), frequencies(episodes, process))
    table = tabulated(policy, process)
    copies = [
        flat_gradient(
            policy, estimator, batch_of(process, episodes, np.tile(members, number), behaviour)
        )[table.own]
        for number in (1, 2)
    ]
    # As in an audit, the exact gradient is the one of the two that the estimator is nearer to.
    exacts = [gradient(process, table, discount_state=flag)[table.own] for flag in (True, False)]
    exact = min(exacts, key=lambda vector: float(np.linalg.norm(copies[0] - vector)))
    size = float(np.linalg.norm(exact))
    return (
        max(float(np.linalg.norm(copy - exact)) for copy in copies) / size
        if size > 0
        else float("nan")
    )


def population_process(mdp: MDP) -> tuple[MDP, Array]:
    """Return a process and [S, A] of a behaviour policy on it whose episodes have commensurable probabilities.

    All states follow each other equally often, and all that are not terminal are equally likely to be the first.
    """
    behaviour = np.ones((mdp.states, mdp.actions))
    behaviour[np.arange(mdp.states), np.arange(mdp.states) % mdp.actions] = PREFERENCE
    horizon = 1
    while horizon < limit("population", mdp) and members_at_most(mdp, horizon + 1) <= MOST_MEMBERS:
        horizon += 1
    process = mdp.replaced(
        transition=np.full(mdp.transition.shape, 1.0 / mdp.states),
        initial=~mdp.ends / (~mdp.ends).sum(),
        horizon=horizon,
    )
    return process, behaviour / behaviour.sum(axis=1, keepdims=True)


def members_at_most(mdp: MDP, horizon: int) -> int:
    """Return a number of episodes in which each of that horizon's can be as often as it is probable."""
    return int((~mdp.ends).sum()) * (mdp.states * (mdp.actions - 1 + PREFERENCE)) ** horizon


def frequencies(episodes: Episodes, process: MDP) -> Array:
    """Return [E] integer: the smallest whole numbers in proportion to the episodes' probabilities."""
    counts = np.rint(
        episodes.probabilities * members_at_most(process, limit("population", process))
    ).astype(np.int64)
    return counts // np.gcd.reduce(counts)
