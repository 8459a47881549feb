"""Every episode of a finite process and its probability; those that nothing can tell apart are one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pgcore.errors import MDPError
from pgcore.validation.arrays import Array
from pgcore.validation.fields import count
from pgcore_exact.process.mdp import MDP

__all__ = ["MOST_EPISODES", "MOST_TUPLES", "Episodes", "all_episodes", "all_tuples"]

# What a minute or so is enough for, and memory too.
MOST_EPISODES = 50_000
MOST_TUPLES = 2_000_000

# Nobody wants to know more exactly, and longer episodes are never fewer.
BEYOND = 10**100


@dataclass(frozen=True, eq=False)
class Episodes:
    """All episodes, one after the other: `B` steps, `E` episodes.

    Attributes:
        states: [B] integer.
        actions: [B] integer.
        rewards: [B] float64.
        lengths: [E] integer.
        terminated: [E] bool. Over, at a terminal state or at the horizon; False where it was cut before.
        final_states: [E] integer. What followed; read only where an episode was cut.
        probabilities: [E]. They sum to 1.
    """

    states: Array
    actions: Array
    rewards: Array
    lengths: Array
    terminated: Array
    final_states: Array
    probabilities: Array

    @cached_property
    def starts(self) -> Array:
        """[E] integer. Each episode's first step."""
        return self.lengths.cumsum() - self.lengths

    def __len__(self) -> int:
        """Return E."""
        return len(self.lengths)


# The steps of an episode so far (state, action, reward), how probable it is, and the state after them, None where it is over.
Way = tuple[tuple[tuple[int, int, float], ...], float, int | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step can lead to; `state` is None where the episode is then over."""

    probability: float
    reward: float
    state: int | None


def all_episodes(mdp: MDP, probabilities: Array, *, cut: int | None = None) -> Episodes:
    """Return every episode that can happen, and how probable it is.

    Args:
        mdp: The process.
        probabilities: [S, A] of the policy that acts.
        cut: Stop watching after this many steps: an episode that then is not over counts as cut, and its final state is kept.

    Raises:
        MDPError: neither a horizon nor a cut, or a cut below 1; an episode can start in a terminal state; or there are too many
            episodes: says how many, and which horizon would do.
    """
    steps = mdp.horizon if cut is None else count("all_episodes cut", cut, MDPError)
    if steps is None:
        raise MDPError(
            "all_episodes: expected a finite horizon, got none; use mdp.replaced(horizon=...) or cut"
        )
    if (mdp.initial[mdp.ends] > 0).any():
        raise MDPError(
            "all_episodes: expected episodes that start in living states, got a terminal one; change `initial`"
        )
    over = mdp.horizon is not None and mdp.horizon <= steps
    steps = min(steps, mdp.horizon) if mdp.horizon is not None else steps
    _check_count(mdp, probabilities, steps, over=over)
    going, last = _outcomes(mdp, over=False), _outcomes(mdp, over=over)
    rows: list[Way] = []
    # A stack, for episodes may be longer than Python calls go deep.
    waiting: list[Way] = [
        ((), mdp.initial[state], int(state)) for state in np.flatnonzero(mdp.initial > 0)[::-1]
    ]
    while waiting:
        way = waiting.pop()
        path, probability, state = way
        if state is None or len(path) == steps:
            rows.append(way)
            continue
        outcomes = (last if len(path) == steps - 1 else going)[state]
        further = [
            ((*path, (state, action, outcome.reward)), acting * outcome.probability, outcome.state)
            for action in range(mdp.actions)
            if (acting := probability * probabilities[state, action]) > 0
            for outcome in outcomes[action]
        ]
        waiting += reversed(further)
    flat = list(itertools.chain.from_iterable(path for path, _, _ in rows))
    return Episodes(
        np.array([step[0] for step in flat], np.intp),
        np.array([step[1] for step in flat], np.intp),
        np.array([step[2] for step in flat], np.float64),
        np.array([len(path) for path, _, _ in rows], np.intp),
        np.array([final is None for _, _, final in rows]),
        np.array([0 if final is None else final for _, _, final in rows], np.intp),
        np.array([probability for _, probability, _ in rows], np.float64),
    )


def all_tuples(episodes: Episodes, size: int, *, ordered: bool = False) -> tuple[Array, Array]:
    """Return every batch of some episodes, and how probable it is.

    Args:
        episodes: What batches are drawn from, independently.
        size: N, episodes in a batch.
        ordered: Tell apart batches that differ in the order of their episodes alone; otherwise they are one, with their sum.

    Returns:
        [P, N] integer episode numbers, and [P] probabilities.

    Raises:
        MDPError: there are too many: says how many, and what would do.
    """
    number = len(episodes)
    total = _batches(number, size, ordered=ordered)
    if total > MOST_TUPLES:
        fitting = next(
            (n for n in range(1, size) if _batches(number, n + 1, ordered=ordered) > MOST_TUPLES), 1
        )
        raise MDPError(
            f"exact: expected at most {MOST_TUPLES:,} batches of {size} episodes, got {shown(total)} from {number:,} episodes; "
            f"use batches of {fitting}, or a process with at most {_fitting_episodes(size, ordered=ordered):,} episodes, such as one with a "
            "shorter horizon"
        )
    ways = (
        itertools.product(range(number), repeat=size)
        if ordered
        else itertools.combinations_with_replacement(range(number), size)
    )
    members = np.fromiter(itertools.chain.from_iterable(ways), np.intp, total * size).reshape(
        total, size
    )
    weights = np.multiply.reduce(episodes.probabilities[members], axis=1)
    return members, weights if ordered else weights * _orders(members)


def shown(number: int) -> str:
    """Return a count in full, or its size where nobody would read that."""
    return f"{number:,}" if number < 10**15 else f"about 10^{math.floor(math.log10(number))}"


def _orders(members: Array) -> Array:
    """Return [P]: in how many orders the sorted rows can come, N! over the factorials of how often each number occurs."""
    size = members.shape[1]
    divisor, run = np.ones(len(members), np.int64), np.ones(len(members), np.int64)
    for column in range(1, size):
        run = np.where(members[:, column] == members[:, column - 1], run + 1, 1)
        divisor *= run
    return math.factorial(size) // divisor


def _batches(count: int, size: int, *, ordered: bool) -> int:
    """Return how many batches of some episodes there are."""
    return count**size if ordered else math.comb(count + size - 1, size)


def _fitting_episodes(size: int, *, ordered: bool) -> int:
    """Return the largest number of episodes whose batches are few enough."""
    low, high = 1, MOST_TUPLES
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high)
            if _batches(middle, size, ordered=ordered) <= MOST_TUPLES
            else (low, middle - 1)
        )
    return low


def _outcomes(mdp: MDP, *, over: bool) -> list[list[list[Outcome]]]:
    """Return what each action in each state can lead to; endings of the same reward are one."""
    return [
        [list(_merged(mdp, state, action, over=over)) for action in range(mdp.actions)]
        for state in range(mdp.states)
    ]


def _merged(mdp: MDP, state: int, action: int, *, over: bool) -> Iterator[Outcome]:
    merged: dict[tuple[float, int | None], float] = {}
    for following in np.flatnonzero(mdp.transition[state, action] > 0):
        ended = over or bool(mdp.ends[following])
        key = (mdp.next_rewards[state, action, following], None if ended else int(following))
        merged[key] = merged.get(key, 0) + mdp.transition[state, action, following]
    for (reward, after), probability in merged.items():
        yield Outcome(probability, reward, after)


def _check_count(mdp: MDP, probabilities: Array, steps: int, *, over: bool) -> None:
    """Raise MDPError where there are too many episodes; counts them without listing any."""
    going, last = _outcomes(mdp, over=False), _outcomes(mdp, over=over)
    possible = probabilities > 0
    ways = [0] * mdp.states
    fitting = total = 0
    for length in range(1, steps + 1):
        here = last if length == 1 else going
        ways = [
            sum(
                1 if length == 1 or outcome.state is None else ways[outcome.state]
                for action in range(mdp.actions)
                if possible[state, action]
                for outcome in here[state][action]
            )
            for state in range(mdp.states)
        ]
        total = sum(ways[state] for state in range(mdp.states) if mdp.initial[state] > 0)
        if total <= MOST_EPISODES:
            fitting = length
        if total > BEYOND:
            break
    if steps != fitting:
        advice = f"a horizon of {fitting} would do" if fitting else "use fewer states or actions"
        got = "more than 10^100" if total > BEYOND else shown(total)
        raise MDPError(
            f"all_episodes: expected at most {MOST_EPISODES:,} episodes, got {got} of up to {steps} steps; {advice}"
        )
