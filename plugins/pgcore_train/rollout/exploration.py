"""Exploration: an epsilon-greedy behaviour policy whose epsilon falls to its head's."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pgcore import EpsilonGreedy
from pgcore.data.spec import PolicySpec
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore.xp.numpy import host

__all__ = ["Actor", "Exploration"]


class Actor(Protocol):
    """A behaviour policy: the policy in training, or one that explores more."""

    @property
    def spec(self) -> PolicySpec:
        """The policy's architecture, with the head that its actions are for."""
        ...

    def act(
        self, observations: Array, rng: np.random.Generator, action_mask: Array | None = None, /
    ) -> tuple[Array, Array]:
        """Return actions and their log-probabilities; see `Policy.act`."""
        ...


class Exploration:
    """An epsilon-greedy behaviour policy: epsilon falls linearly to its head's, and stays there.

    The policy and its head do not change, so a saved or evaluated policy is the one after the fall.

    Attributes:
        epsilon: The current probability of an action other than the greedy one.
    """

    def __init__(
        self, policy: Policy, head: EpsilonGreedy, initial: float | None, steps: float
    ) -> None:
        """Start with the first epsilon.

        Args:
            policy: Gives the greedy actions, by its current parameters.
            head: The policy's.
            initial: First epsilon; None draws all actions with the same probability.
            steps: Environment steps until epsilon is the head's; 0 starts with that.

        Raises:
            SpecError: `EpsilonGreedy` cannot take the first epsilon.
        """
        self._policy, self._last, self._steps = policy, head, steps
        # The largest epsilon there is: all actions are equally probable.
        uniform = (head.n - 1) / head.n
        self._first = EpsilonGreedy(head.n, uniform if initial is None else initial)
        self._head = self.at(0)

    @property
    def spec(self) -> PolicySpec:
        """The policy's architecture."""
        return self._policy.spec

    @property
    def epsilon(self) -> float:
        """See `Exploration`."""
        return self._head.epsilon

    def at(self, steps: int) -> EpsilonGreedy:
        """Set and return the behaviour policy's head after a number of environment steps."""
        left = max(0.0, 1.0 - steps / self._steps) if self._steps else 0.0
        first, last = self._first.epsilon, self._last.epsilon
        # Rounding must not carry epsilon above both ends: the first may be the largest there is.
        epsilon = min(last + left * (first - last), max(first, last))
        self._head = EpsilonGreedy(self._last.n, epsilon) if left else self._last
        return self._head

    def act(
        self, observations: Array, rng: np.random.Generator, action_mask: Array | None = None
    ) -> tuple[Array, Array]:
        """See `Policy.act`; the log-probabilities are those under the current epsilon."""
        greedy = self._policy.mode(observations, action_mask)
        values = (np.arange(self._head.n) == greedy[:, None]).astype(np.float64)
        # One for the greedy action and 0 for the others is an action value with that very mode.
        distribution = self._head.distribution(host, values, {}, action_mask)
        actions = self._head.sample(distribution, rng)
        return actions, self._head.log_prob(host, distribution, actions)
