"""Gymnasium environments that hold their own transition table, as finite processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from pgcore.errors import MDPError
from pgcore_exact.process.mdp import MDP

__all__ = ["from_gymnasium"]

# By state and action, (probability, next state, reward, terminated) of every outcome.
Outcomes = Mapping[int, Mapping[int, Sequence[tuple[float, int, float, bool]]]]

# A state, by the outcome that leads to it: number, end of the episode, index of the reward.
Copy = tuple[int, bool, int]


def from_gymnasium(
    name: str, *, horizon: int | None = None, gamma: float = 1.0, **options: Any
) -> MDP:
    """Return a Gymnasium environment as a process, read from its transition table.

    FrozenLake-v1 and CliffWalking-v1 have one. States keep their numbers. A state has several
    copies, with numbers behind those, if only some outcomes end the episode in it, or if one
    action leads to it with different rewards. Copies look the same: `observations` holds the
    state's number.

    Args:
        name: The environment's name.
        horizon: Largest number of steps; None takes the environment's time limit, if any.
        gamma: Discount in [0, 1].
        options: For `gymnasium.make`, such as `is_slippery=False`.

    Raises:
        MDPError: the environment has no such table, or the horizon is below 1.
    """
    import gymnasium

    environment = gymnasium.make(name, **options)
    inner = cast("Any", environment.unwrapped)
    table, initial = getattr(inner, "P", None), getattr(inner, "initial_state_distrib", None)
    limited = None if environment.spec is None else environment.spec.max_episode_steps
    environment.close()
    if table is None or initial is None:
        raise MDPError(
            "from_gymnasium: expected an environment with the tables `P` and "
            f"`initial_state_distrib`, got {name}; choose one such as FrozenLake-v1, "
            "or write the arrays down"
        )
    # A copy's row has the outcomes of its state.
    start = np.asarray(initial, np.float64)
    numbers = number_copies(table, np.flatnonzero(start > 0).tolist())
    size, actions = len(numbers), len(table[0])
    transition, reward = np.zeros((size, actions, size)), np.zeros((size, actions, size))
    for (state, ended, _), number in numbers.items():
        for action in range(actions) if not ended else ():
            for copy, probability, paid in successors(table[state][action]):
                transition[number, action, numbers[copy]] += probability
                reward[number, action, numbers[copy]] = paid
    order = sorted(numbers, key=lambda copy: numbers[copy])
    return MDP(
        transition,
        reward,
        np.append(start, np.zeros(size - len(start))),
        np.array([ended for _, ended, _ in order]),
        limited if horizon is None else horizon,
        gamma,
        np.array([state for state, _, _ in order]),
    )


def successors(
    outcomes: Iterable[tuple[float, int, float, bool]],
) -> Iterator[tuple[Copy, float, float]]:
    """Yield the next copy, the probability and the reward of each outcome of an action."""
    # Rewards by state and end, in the order of the outcomes: the index tells the copy.
    rewards: dict[tuple[int, bool], list[float]] = {}
    for probability, following, reward, terminated in outcomes:
        if probability > 0:
            key = (int(following), bool(terminated))
            payments = rewards.setdefault(key, [])
            if reward not in payments:
                payments.append(reward)
            yield (*key, payments.index(reward)), probability, reward


def number_copies(table: Outcomes, starts: Sequence[int]) -> dict[Copy, int]:
    """Return the number of every copy: the state's for its first copy, new ones after that.

    Args:
        table: The environment's outcomes.
        starts: States in which episodes start.
    """
    copies: dict[Copy, None] = {}
    walk(table, starts, copies)
    # States that no outcome leads to, as if episodes started there.
    reached = {state for state, _, _ in copies}
    walk(table, [state for state in range(len(table)) if state not in reached], copies)
    numbers: dict[Copy, int] = {}
    used, spare = set[int](), itertools.count(len(table))
    # Sorted, copies that do not end the episode come first.
    for copy in sorted(copies):
        numbers[copy] = next(spare) if copy[0] in used else copy[0]
        used.add(copy[0])
    return numbers


def walk(table: Outcomes, starts: Iterable[int], copies: dict[Copy, None]) -> None:
    """Add the states, and every copy that can be reached from them.

    Args:
        table: The environment's outcomes.
        starts: States to begin with.
        copies: The set to add to, as keys.
    """
    waiting: list[Copy] = [(state, False, 0) for state in starts]
    while waiting:
        copy = waiting.pop()
        if copy in copies:
            continue
        copies[copy] = None
        state, ended, _ = copy
        if not ended:
            for outcomes in table[state].values():
                waiting += [following for following, _, _ in successors(outcomes)]
