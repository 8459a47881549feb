"""Small finite Markov decision processes: explicit arrays, or random by seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from numbers import Integral
from typing import Any, cast

import numpy as np

from pgcore.errors import MDPError
from pgcore.validation.arrays import Array, read_only
from pgcore.validation.fields import count, set_field, unit_interval

__all__ = ["MDP", "finite_array", "finite_horizon", "random"]

# Deviation of a row's sum from 1: a few roundings of its entries.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class MDP:
    """A finite Markov decision process; `S` states, `A` actions.

    Attributes:
        transition: [S, A, S]. Probability of each next state; rows of terminal states are not read.
        reward: [S, A], or [S, A, S] where it depends on the next state; environment units.
        initial: [S]. Probability of each first state.
        terminal: [S] bool. States that end the episode; None for none.
        horizon: An episode's largest number of steps, at which it ends, or None for no limit.
        gamma: Discount of the objective in [0, 1]. Without a horizon it is below 1, or every
            episode ends.
        observations: [S, ...]. The policy's observation of each state; None is the state's number,
            which a `Table` takes.

    Raises:
        MDPError: a shape is wrong; probabilities are negative or do not sum to 1, with state and
            action; or gamma is not in [0, 1].
    """

    transition: Array
    reward: Array
    initial: Array
    terminal: Array | None = None
    horizon: int | None = None
    gamma: float = 1.0
    observations: Array | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        transition, reward, initial = (
            finite_array(f"MDP.{name}", getattr(self, name))
            for name in ("transition", "reward", "initial")
        )
        set_field(self, "gamma", unit_interval("MDP.gamma", self.gamma, MDPError))
        if (
            transition.ndim != 3
            or transition.shape[0] != transition.shape[2]
            or 0 in transition.shape
        ):
            raise MDPError(
                f"MDP.transition: expected shape [S, A, S], got {list(transition.shape)}; "
                "give each state and action the probabilities of all next states"
            )
        # All further shapes follow from the transition's.
        states, actions, _ = transition.shape
        _check_shape("reward", reward, (states, actions), (states, actions, states))
        _check_shape("initial", initial, (states,))
        terminal = np.zeros(states, np.bool_)
        if self.terminal is not None:
            terminal = rectangular_array("MDP.terminal", self.terminal)
        _check_shape("terminal", terminal, (states,))
        if terminal.dtype.kind != "b":
            raise MDPError(
                f"MDP.terminal: expected booleans, got dtype {terminal.dtype}; "
                "give True or False for every state"
            )
        observations = cast("Array", np.arange(states))
        if self.observations is not None:
            observations = rectangular_array("MDP.observations", self.observations)
        if observations.ndim == 0 or len(observations) != states:
            raise MDPError(
                f"MDP.observations: expected {states} rows, one for each state, "
                f"got shape {list(observations.shape)}; give every state an observation"
            )
        _check_probabilities("initial", initial)
        # Rows of terminal states are not read.
        for state in np.flatnonzero(~terminal):
            for action, row in enumerate(transition[state]):
                _check_probabilities(f"transition[state {state}, action {action}]", row)
        if self.horizon is not None:
            set_field(self, "horizon", count("MDP.horizon", self.horizon, MDPError))
        set_field(self, "transition", read_only(transition))
        set_field(self, "reward", read_only(reward))
        set_field(self, "initial", read_only(initial))
        set_field(self, "terminal", read_only(terminal))
        set_field(self, "observations", read_only(observations))

    @property
    def states(self) -> int:
        """S."""
        return self.transition.shape[0]

    @property
    def actions(self) -> int:
        """A."""
        return self.transition.shape[1]

    @property
    def ends(self) -> Array:
        """[S] bool. The terminal states."""
        assert self.terminal is not None
        return self.terminal

    @property
    def seen(self) -> Array:
        """[S, ...]. The policy's observation of each state."""
        assert self.observations is not None
        return self.observations

    @property
    def next_rewards(self) -> Array:
        """[S, A, S]. The reward of each transition."""
        wide = self.reward if self.reward.ndim == 3 else self.reward[:, :, None]
        return np.broadcast_to(wide, self.transition.shape)

    @property
    def mean_rewards(self) -> Array:
        """[S, A]. Expected reward of an action; 0 in terminal states."""
        mean = self.reward if self.reward.ndim == 2 else (self.transition * self.reward).sum(axis=2)
        return np.where(self.ends[:, None], 0 * mean, mean)

    @property
    def moves(self) -> Array:
        """[S, A, S]. Probability of each next state; 0 from terminal states."""
        return np.where(self.ends[:, None, None], 0 * self.transition, self.transition)

    def replaced(self, **fields: Any) -> MDP:
        """Return the process with some fields changed, checked."""
        return dataclasses.replace(self, **fields)

    def with_time(self) -> MDP:
        """Return the same process with the time in the state: t * S + s is s at t = 0 ... horizon.

        A table then has a row for each time, so that it can hold time-indexed values. If
        observations are numbers, states that share one share it at each time. Otherwise
        observations become the states' numbers.

        Raises:
            MDPError: there is no horizon.
        """
        horizon, size = finite_horizon("MDP.with_time", self), self.states
        total = (horizon + 1) * size
        shape = (total, self.actions, total)
        transition, reward = np.zeros(shape), np.zeros(shape)
        if self.reward.ndim == 2:
            reward = np.tile(self.reward, (horizon + 1, 1))
        # From each time a step leads to the next one.
        for t in range(horizon):
            here, after = slice(t * size, (t + 1) * size), slice((t + 1) * size, (t + 2) * size)
            transition[here, :, after] = self.transition
            if self.reward.ndim == 3:
                reward[here, :, after] = self.reward
        # The horizon's rows are not read, but have to be probabilities.
        last = slice(horizon * size, total)
        transition[last, :, last] = self.transition
        # Numbers below S shift by S at each step; other observations cannot hold the time.
        integers = self.seen.ndim == 1 and self.seen.dtype.kind in "iu"
        numbers = integers and 0 <= self.seen.min() <= self.seen.max() < size
        seen = self.seen if numbers else np.arange(size)
        return MDP(
            transition,
            reward,
            np.concatenate([self.initial, np.zeros(total - size)]),
            np.tile(self.ends, horizon + 1),
            horizon,
            self.gamma,
            np.concatenate([t * size + seen for t in range(horizon + 1)]),
        )


def random(
    states: int,
    actions: int,
    horizon: int | None,
    seed: int,
    *,
    terminals: int = 0,
    gamma: float = 1.0,
) -> MDP:
    """Return a process with every transition possible, and standard normal rewards.

    Args:
        states: S, terminal ones included.
        actions: A.
        horizon: Largest number of steps, or None.
        seed: At least 0; the same seed gives the same process.
        terminals: Number of terminal states, the last ones; no episode starts there.
        gamma: Discount in [0, 1].

    Raises:
        MDPError: a number is too small, no state is left that is not terminal, or the process does
            not fit into memory.
    """
    rng = _generator(states, actions, seed, terminals)
    try:
        transition = rng.dirichlet(np.ones(states), (states, actions))
    except (MemoryError, ValueError) as error:
        raise MDPError(
            f"random: expected a process that fits into memory, got {states} states and "
            f"{actions} actions; take fewer states"
        ) from error
    # At least 0.1 keeps every state, that is not terminal, a likely first one.
    going = np.arange(states) < states - terminals
    initial = np.where(going, 0.1 + rng.random(states), 0.0)
    return MDP(
        transition,
        rng.standard_normal((states, actions)),
        initial / initial.sum(),
        ~going,
        horizon,
        gamma,
    )


def finite_horizon(where: str, mdp: MDP) -> int:
    """Return the horizon, or raise MDPError if there is none."""
    if mdp.horizon is None:
        raise MDPError(
            f"{where}: expected a finite horizon, got none; use mdp.replaced(horizon=...)"
        )
    return mdp.horizon


def _generator(states: int, actions: int, seed: int, terminals: int) -> np.random.Generator:
    for name, value in (("states", states), ("actions", actions)):
        count(f"random {name}", value, MDPError)
    if not 0 <= terminals < states:
        raise MDPError(
            f"random terminals: expected 0 to {states - 1}, got {terminals}; "
            "leave a state to start from"
        )
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise MDPError(f"random seed: expected an integer of at least 0, got {seed!r}; give one")
    return np.random.Generator(np.random.Philox(int(seed)))


def rectangular_array(where: str, value: Any) -> Array:
    """Return a new array, or raise MDPError if rows differ in length."""
    try:
        return np.array(value)
    except ValueError as error:
        raise MDPError(
            f"{where}: expected a rectangular array, got one that NumPy refuses; "
            "check the rows' lengths"
        ) from error


def finite_array(where: str, value: Any) -> Array:
    """Return a new array of float64; raise MDPError unless all numbers are real and finite."""
    array = rectangular_array(where, value)
    if array.dtype.kind in "biuf":
        array = array.astype(np.float64)
        if np.isfinite(array).all():
            return array
    raise MDPError(
        f"{where}: expected finite numbers, got dtype {array.dtype} with others; mend the array"
    )


def _check_shape(name: str, array: Array, *allowed: tuple[int, ...]) -> None:
    if array.shape not in allowed:
        shapes = " or ".join(str(list(shape)) for shape in allowed)
        raise MDPError(
            f"MDP.{name}: expected shape {shapes}, got {list(array.shape)}; "
            "match the transition's states and actions"
        )


def _check_probabilities(where: str, row: Array) -> None:
    total = row.sum()
    if (row < 0).any() or abs(total - 1) > ROUNDING:
        got = f"{row.min()}" if (row < 0).any() else f"a sum of {total}"
        raise MDPError(
            f"MDP.{where}: expected probabilities that sum to 1, got {got}; mend that row"
        )
