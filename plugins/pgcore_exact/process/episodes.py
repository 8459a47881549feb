"""Every episode of a finite process with its probability; identical episodes are one."""

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

# Episodes and batches that fit into memory, and into about a minute.
MOST_EPISODES = 50_000
MOST_TUPLES = 2_000_000

# A larger count of episodes is not given in full; it never falls with the length.
BEYOND = 10**100


@dataclass(frozen=True, eq=False)
class Episodes:
    """All episodes, one after the other: `B` steps, `E` episodes.

    Attributes:
        states: [B] integer.
        actions: [B] integer.
        rewards: [B] float64.
        lengths: [E] integer.
        terminated: [E] bool. Ended, in a terminal state or at the horizon; False where truncated.
        final_states: [E] integer. The next state; read only where an episode was truncated.
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


# The steps (state, action, reward) of an episode up to now, their probability, and the next state,
# None if the episode has ended.
Prefix = tuple[tuple[tuple[int, int, float], ...], float, int | None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One result of a step; `state` is None if the episode then ends."""

    probability: float
    reward: float
    state: int | None


def all_episodes(mdp: MDP, probabilities: Array, *, cut: int | None = None) -> Episodes:
    """Return every possible episode with its probability.

    Args:
        mdp: The process.
        probabilities: [S, A] of the behaviour policy.
        cut: Truncate after this many steps; None truncates none.

    Raises:
        MDPError: neither a horizon nor `cut`, or `cut` below 1; an episode can start in a terminal
            state; or there are too many episodes: gives their number, and a horizon that fits.
    """
    steps = mdp.horizon if cut is None else count("all_episodes cut", cut, MDPError)
    if steps is None:
        raise MDPError(
            "all_episodes: expected a finite horizon, got none; "
            "use mdp.replaced(horizon=...) or cut"
        )
    if (mdp.initial[mdp.ends] > 0).any():
        raise MDPError(
            "all_episodes: expected episodes that start in states that are not terminal, got a "
            "terminal one; change `initial`"
        )
    over = mdp.horizon is not None and mdp.horizon <= steps
    steps = min(steps, mdp.horizon) if mdp.horizon is not None else steps
    _check_count(mdp, probabilities, steps, over=over)
    going, last = _outcomes(mdp, over=False), _outcomes(mdp, over=over)
    rows: list[Prefix] = []
    # A stack: episodes may be longer than Python's limit on recursion.
    starts = [(state, p) for state, p in enumerate(mdp.initial.tolist()) if p > 0]
    waiting: list[Prefix] = [((), p, state) for state, p in reversed(starts)]
    while waiting:
        prefix = waiting.pop()
        path, probability, state = prefix
        if state is None or len(path) == steps:
            rows.append(prefix)
            continue
        outcomes = (last if len(path) == steps - 1 else going)[state]
        longer: list[Prefix] = []
        for action in range(mdp.actions):
            joint = probability * probabilities[state, action]
            for outcome in outcomes[action] if joint > 0 else ():
                step = (state, action, outcome.reward)
                longer.append(((*path, step), joint * outcome.probability, outcome.state))
        # Reversed, so that the stack yields them in order.
        waiting += reversed(longer)
    return _stacked(rows)


def _stacked(rows: list[Prefix]) -> Episodes:
    paths, chances, finals = zip(*rows, strict=True)
    states, actions, rewards = zip(*itertools.chain.from_iterable(paths), strict=True)
    return Episodes(
        np.array(states, np.intp),
        np.array(actions, np.intp),
        np.array(rewards, np.float64),
        np.array([len(path) for path in paths], np.intp),
        np.array([final is None for final in finals]),
        np.array([0 if final is None else final for final in finals], np.intp),
        np.array(chances, np.float64),
    )


def all_tuples(episodes: Episodes, size: int, *, ordered: bool = False) -> tuple[Array, Array]:
    """Return every batch of some episodes with its probability.

    Args:
        episodes: The episodes that batches are drawn from, independently.
        size: N, episodes in a batch.
        ordered: Whether batches that differ in order alone are distinct; otherwise they are one,
            with the sum of their probabilities.

    Returns:
        [P, N] integer episode numbers, and [P] probabilities.

    Raises:
        MDPError: there are too many: gives their number and a remedy.
    """
    number = len(episodes)
    total = _count_batches(number, size, ordered=ordered)
    if total > MOST_TUPLES:
        fitting = 1
        while _count_batches(number, fitting + 1, ordered=ordered) <= MOST_TUPLES:
            fitting += 1
        fewer = _fitting_episodes(size, ordered=ordered)
        raise MDPError(
            f"exact: expected at most {MOST_TUPLES:,} batches of {size} episodes, "
            f"got {format_count(total)} from {number:,} episodes; use batches of {fitting}, "
            f"or a process with at most {fewer:,} episodes, such as one with a shorter horizon"
        )
    ways = (
        itertools.product(range(number), repeat=size)
        if ordered
        else itertools.combinations_with_replacement(range(number), size)
    )
    # `fromiter` needs no list of two million tuples.
    flat = np.fromiter(itertools.chain.from_iterable(ways), np.intp, total * size)
    members = flat.reshape(total, size)
    weights = np.multiply.reduce(episodes.probabilities[members], axis=1)
    return members, weights if ordered else weights * _count_orders(members)


def format_count(number: int) -> str:
    """Return a count in full, or its power of ten from 10^15 on."""
    return f"{number:,}" if number < 10**15 else f"about 10^{math.floor(math.log10(number))}"


def _count_orders(members: Array) -> Array:
    """Return [P] the number of orders of each sorted row: N! over its numbers' factorials."""
    size = members.shape[1]
    # The product of 1, 2, ... along each run of equal numbers.
    divisor, run = np.ones(len(members), np.int64), np.ones(len(members), np.int64)
    for column in range(1, size):
        run = np.where(members[:, column] == members[:, column - 1], run + 1, 1)
        divisor *= run
    return math.factorial(size) // divisor


def _count_batches(count: int, size: int, *, ordered: bool) -> int:
    """Return the number of batches of some episodes.

    Args:
        count: Number of episodes.
        size: N, episodes in a batch.
        ordered: See `all_tuples`.
    """
    return count**size if ordered else math.comb(count + size - 1, size)


def _fitting_episodes(size: int, *, ordered: bool) -> int:
    """Return the largest number of episodes whose batches fit; see `_count_batches`."""
    # Bisection.
    low, high = 1, MOST_TUPLES
    while low < high:
        middle = (low + high + 1) // 2
        if _count_batches(middle, size, ordered=ordered) <= MOST_TUPLES:
            low = middle
        else:
            high = middle - 1
    return low


def _outcomes(mdp: MDP, *, over: bool) -> list[list[list[Outcome]]]:
    """Return the outcomes of each action in each state; endings of equal reward are one.

    Args:
        mdp: The process.
        over: Whether the step is the last one before the horizon, so that each outcome ends.
    """
    return [
        [list(_merge_outcomes(mdp, state, action, over=over)) for action in range(mdp.actions)]
        for state in range(mdp.states)
    ]


def _merge_outcomes(mdp: MDP, state: int, action: int, *, over: bool) -> Iterator[Outcome]:
    merged: dict[tuple[float, int | None], float] = {}
    for following in np.flatnonzero(mdp.transition[state, action] > 0):
        # The state in which an episode ends is never seen.
        ended = over or bool(mdp.ends[following])
        key = (mdp.next_rewards[state, action, following], None if ended else int(following))
        merged[key] = merged.get(key, 0) + mdp.transition[state, action, following]
    for (reward, after), probability in merged.items():
        yield Outcome(probability, reward, after)


def _check_count(mdp: MDP, probabilities: Array, steps: int, *, over: bool) -> None:
    """Raise MDPError if there are too many episodes.

    Args:
        mdp: The process.
        probabilities: [S, A] of the behaviour policy.
        steps: Largest number of steps.
        over: Whether the episodes end after it.
    """
    # Counting needs no list: the episodes from a state are the sum over its next states.
    going, last = _outcomes(mdp, over=False), _outcomes(mdp, over=over)
    possible = probabilities > 0
    ways = [0] * mdp.states
    fitting = total = 0
    for length in range(1, steps + 1):
        here = last if length == 1 else going
        longer = [0] * mdp.states
        for state, action in np.argwhere(possible).tolist():
            for outcome in here[state][action]:
                following = None if length == 1 else outcome.state
                longer[state] += 1 if following is None else ways[following]
        ways = longer
        total = sum(ways[state] for state in np.flatnonzero(mdp.initial > 0))
        if total <= MOST_EPISODES:
            fitting = length
        if total > BEYOND:
            break
    # Where the horizon does not fit, the longest one that does is the advice.
    if steps != fitting:
        advice = f"a horizon of {fitting} would do" if fitting else "use fewer states or actions"
        got = "more than 10^100" if total > BEYOND else format_count(total)
        raise MDPError(
            f"all_episodes: expected at most {MOST_EPISODES:,} episodes, "
            f"got {got} of up to {steps} steps; {advice}"
        )
