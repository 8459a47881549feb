"""Exploration: an epsilon-greedy policy that plays at random at first and by and by as its head says."""

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
    """What plays a rollout: a policy, or one that explores more."""

    @property
    def spec(self) -> PolicySpec:
        """The policy's architecture, whose head says what its actions mean."""
        ...

    def act(self, observations: Array, rng: np.random.Generator, /) -> tuple[Array, Array]:
        """Return actions and their log-probabilities; see `Policy.act`."""
        ...


class Exploration:
    """Plays an epsilon-greedy policy with an epsilon that falls linearly to its head's own, and stays there.

    The head is part of the policy and does not change, so what is saved and evaluated is the policy at the end of the fall.

    Attributes:
        epsilon: The current one, as `EpsilonGreedy` counts it: the probability of an action other than the greedy one.
    """

    def __init__(
        self, policy: Policy, head: EpsilonGreedy, initial: float | None, steps: float
    ) -> None:
        """Start with the first epsilon.

        Args:
            policy: Whose greedy actions are played, with its current parameters.
            head: The policy's.
            initial: First epsilon; None draws all actions with the same probability.
            steps: Environment steps until epsilon is the head's; 0 starts with that.

        Raises:
            SpecError: `EpsilonGreedy` cannot take the first epsilon.
        """
        self._policy, self._last, self._steps = policy, head, steps
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
        """Set and return the head that plays after a number of environment steps."""
        left = max(0.0, 1.0 - steps / self._steps) if self._steps else 0.0
        first, last = self._first.epsilon, self._last.epsilon
        # Rounding must not carry it beyond both, where there may be no such head.
        epsilon = min(last + left * (first - last), max(first, last))
        self._head = EpsilonGreedy(self._last.n, epsilon) if left else self._last
        return self._head

    def act(self, observations: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """See `Policy.act`; the log-probabilities are those under the current epsilon."""
        greedy = self._policy.mode(observations)
        values = (np.arange(self._head.n) == greedy[:, None]).astype(np.float64)
        distribution = self._head.distribution(host, values, {}, None)
        actions = self._head.sample(distribution, rng)
        return actions, self._head.log_prob(host, distribution, actions)
