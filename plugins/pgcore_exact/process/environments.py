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

# A state as an outcome leads to it: its number, whether that ends the episode, and which of the rewards that the way there can have.
Copy = tuple[int, bool, int]


def from_gymnasium(
    name: str, *, horizon: int | None = None, gamma: float = 1.0, **options: Any
) -> MDP:
    """Return a Gymnasium environment as a process, read from its transition table, such as that of FrozenLake-v1 or CliffWalking-v1.

    States keep their numbers. One that ends episodes on some ways and not on others, or that one action can lead to with different rewards,
    has copies behind them, which look the same: `observations` has the number of the state that each is.

    Args:
        name: The environment's.
        horizon: Largest number of steps; None takes the environment's own time limit, where it has one.
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
            f"from_gymnasium: expected an environment with the tables `P` and `initial_state_distrib`, got {name}; "
            "choose one such as FrozenLake-v1, or write the arrays down"
        )
    start = np.asarray(initial, np.float64)
    numbers = numbered(table, np.flatnonzero(start > 0).tolist())
    size, actions = len(numbers), len(table[0])
    transition, reward = np.zeros((size, actions, size)), np.zeros((size, actions, size))
    for (state, ended, _), number in numbers.items():
        for action in range(actions) if not ended else ():
            for copy, probability, paid in led_to(table[state][action]):
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


def led_to(
    outcomes: Iterable[tuple[float, int, float, bool]],
) -> Iterator[tuple[Copy, float, float]]:
    """Yield the copy that each outcome of an action leads to, with its probability and reward."""
    rewards: dict[tuple[int, bool], list[float]] = {}
    for probability, following, reward, terminated in outcomes:
        if probability > 0:
            key = (int(following), bool(terminated))
            payments = rewards.setdefault(key, [])
            if reward not in payments:
                payments.append(reward)
            yield (*key, payments.index(reward)), probability, reward


def numbered(table: Outcomes, starts: Sequence[int]) -> dict[Copy, int]:
    """Return the number of every copy: the state's own for the first that is found, and new ones for others."""
    copies: dict[Copy, None] = {}
    walk(table, starts, copies)
    # States that no way leads to go on, as if episodes started there.
    reached = {state for state, _, _ in copies}
    walk(table, [state for state in range(len(table)) if state not in reached], copies)
    numbers: dict[Copy, int] = {}
    used, spare = set[int](), itertools.count(len(table))
    for copy in sorted(copies):  # those that go on first
        numbers[copy] = next(spare) if copy[0] in used else copy[0]
        used.add(copy[0])
    return numbers


def walk(table: Outcomes, starts: Iterable[int], copies: dict[Copy, None]) -> None:
    """Add every copy that can be reached from the states, these among them."""
    waiting: list[Copy] = [(state, False, 0) for state in starts]
    while waiting:
        copy = waiting.pop()
        if copy in copies:
            continue
        copies[copy] = None
        state, ended, _ = copy
        if not ended:
            waiting += [
                further for action in table[state] for further, _, _ in led_to(table[state][action])
            ]
