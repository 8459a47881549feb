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


@dataclass(frozen=True, slots=True)
class Outcome:
    """One result of a step; `state` is None if the episode then ends."""

    probability: float
    reward: float
    state: int | None


# The outcomes of each action in each state.
Outcomes = list[list[list[Outcome]]]


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """The `n` outcomes of all states, one state after the other, and one of an ended episode.

    The number of states, S, stands for the end. An episode that has ended takes the last outcome
    again and again, which is no step.

    Attributes:
        first: [S + 1] integer. Each state's first outcome.
        counts: [S + 1] integer. Each state's number of outcomes.
        actions: [n] integer.
        rewards: [n] float64.
        following: [n] integer. The next state, S at the end.
        behaviour: [n]. The action's probability.
        probabilities: [n]. The outcome's, given the action.
    """

    first: Array
    counts: Array
    actions: Array
    rewards: Array
    following: Array
    behaviour: Array
    probabilities: Array

    @staticmethod
    def of(outcomes: Outcomes, probabilities: Array) -> OutcomeTable:
        """Return the table of each state's outcomes by action; probabilities are [S, A]."""
        end = len(outcomes)
        rows: list[tuple[int, int, float, int, float, float]] = []
        for state, action in np.argwhere(probabilities > 0).tolist():
            behaviour = probabilities[state, action]
            for outcome in outcomes[state][action]:
                following = end if outcome.state is None else outcome.state
                rows.append(
                    (state, action, outcome.reward, following, behaviour, outcome.probability)
                )
        columns = zip(*rows, (end, 0, 0.0, end, 1.0, 1.0), strict=True)
        states, actions, rewards, following, behaviour, chances = map(np.array, columns)
        counts = np.bincount(states, minlength=end + 1)
        first = counts.cumsum() - counts
        return OutcomeTable(first, counts, actions, rewards, following, behaviour, chances)


@dataclass(frozen=True, slots=True)
class Prefixes:
    """The `n` beginnings of episodes up to some step, in order, ended episodes among them.

    Attributes:
        parents: [n] integer. Which of the prefixes one step shorter each continues.
        steps: The last steps' (states, actions, rewards), each [n]; no step where the state is S.
        lengths: [n] integer. Steps.
        states: [n] integer. The next state, S where the episode has ended.
        probabilities: [n].
        end: S.
    """

    parents: Array
    steps: tuple[Array, Array, Array]
    lengths: Array
    states: Array
    probabilities: Array
    end: int

    @staticmethod
    def starts(mdp: MDP) -> Prefixes:
        """Return the prefixes without a step."""
        states = np.flatnonzero(mdp.initial > 0)
        none, zeros = (states[:0], states[:0], mdp.initial[:0]), np.zeros(len(states), np.intp)
        return Prefixes(zeros, none, zeros, states, mdp.initial[states], mdp.states)

    @property
    def ended(self) -> Array:
        """[n] bool: the whole episode is there."""
        return self.states == self.end

    def longer(self, table: OutcomeTable) -> Prefixes:
        """Return the prefixes of one more step: each one's outcomes take its place."""
        counts = table.counts[self.states]
        parents = np.repeat(np.arange(len(counts)), counts)
        states = self.states[parents]
        place = np.arange(len(parents)) - np.repeat(counts.cumsum() - counts, counts)
        outcomes = table.first[states] + place
        joint = self.probabilities[parents] * table.behaviour[outcomes]
        # A probability can underflow.
        possible = (joint > 0) | (states == self.end)
        parents, states, outcomes = parents[possible], states[possible], outcomes[possible]
        return Prefixes(
            parents,
            (states, table.actions[outcomes], table.rewards[outcomes]),
            self.lengths[parents] + (states != self.end),
            table.following[outcomes],
            joint[possible] * table.probabilities[outcomes],
            self.end,
        )


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
    going, last = _outcomes(mdp, over=False), _outcomes(mdp, over=over)
    _check_count(mdp, probabilities, steps, going, last)
    before, final = (OutcomeTable.of(outcomes, probabilities) for outcomes in (going, last))
    prefixes = Prefixes.starts(mdp)
    levels: list[Prefixes] = []
    while len(levels) < steps and not prefixes.ended.all():
        prefixes = prefixes.longer(final if len(levels) == steps - 1 else before)
        levels.append(prefixes)
    return _stacked(levels)


def _stacked(levels: list[Prefixes]) -> Episodes:
    """Return the last level's episodes; its prefixes' parents lead to their steps."""
    last = levels[-1]
    starts = last.lengths.cumsum() - last.lengths
    total = int(last.lengths.sum())
    states, actions, rewards = np.empty(total, np.intp), np.empty(total, np.intp), np.empty(total)
    prefix = np.arange(len(last.lengths))
    for step in reversed(range(len(levels))):
        level = levels[step]
        real = step < last.lengths
        place, chosen = starts[real] + step, prefix[real]
        for column, values in zip((states, actions, rewards), level.steps, strict=True):
            column[place] = values[chosen]
        prefix = level.parents[prefix]
    final_states = np.where(last.ended, 0, last.states)
    return Episodes(
        states, actions, rewards, last.lengths, last.ended, final_states, last.probabilities
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


def _outcomes(mdp: MDP, *, over: bool) -> Outcomes:
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


def _check_count(
    mdp: MDP,
    probabilities: Array,
    steps: int,
    going: Outcomes,
    last: Outcomes,
) -> None:
    """Raise MDPError if there are too many episodes.

    Args:
        mdp: The process.
        probabilities: [S, A] of the behaviour policy.
        steps: Largest number of steps.
        going: The outcomes of each action in each state.
        last: The same of the last step.
    """
    # Counting needs no list: the episodes from a state are the sum over its next states.
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
