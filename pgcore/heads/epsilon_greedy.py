"""Epsilon-greedy action distributions over a network's action values."""

import math
from dataclasses import dataclass
from typing import ClassVar

from pgcore.errors import SpecError
from pgcore.heads.discrete import DiscreteHead
from pgcore.validation.fields import Count, UnitInterval, check_fields, unit_interval
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["EpsilonGreedy"]


@dataclass(frozen=True, slots=True)
class EpsilonGreedy(DiscreteHead):
    """The action of the largest value with probability 1 - epsilon, others with epsilon / (n - 1).

    Network outputs are Q(s, .), which a policy offers as `action_values`. The distribution
    parameters [B, n] are log pi, -inf for masked actions; they are piecewise constant in Q, so
    their derivative is 0. If a mask leaves k actions, n is k, and epsilon at most (k - 1) / k, the
    uniform distribution. See `usual` for the form that explores with the greedy action too.

    Attributes:
        n: Number of actions, at least 1; with 1 epsilon does nothing.
        epsilon: In [0, (n - 1) / n]: the greedy action, the first of the largest, is likeliest.

    Source: Sutton and Barto 2018, sec. 2.2. Differs: exploring never draws the greedy action.
    """

    n: Count
    epsilon: UnitInterval = 0.1
    name: ClassVar[str] = "epsilon_greedy"
    enumerable: ClassVar[bool] = True
    action_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the fields, and that epsilon leaves the greedy action the likeliest."""
        check_fields(self)
        most = (self.n - 1) / self.n
        if self.n > 1 and self.epsilon > most:
            raise SpecError(
                f"EpsilonGreedy.epsilon: expected at most (n - 1) / n = {most}, "
                f"got {self.epsilon}; there all actions are equally likely"
            )

    @staticmethod
    def usual(n: int, epsilon: float) -> "EpsilonGreedy":
        """Return the head that draws uniformly from all actions with probability epsilon.

        Args:
            n: Number of actions, at least 1.
            epsilon: In [0, 1].
        """
        return EpsilonGreedy(n, unit_interval("EpsilonGreedy.usual epsilon", epsilon) * (n - 1) / n)

    @property
    def outputs(self) -> int:
        """One value an action."""
        return self.n

    def distribution(
        self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native
    ) -> Native:
        """See `Head.distribution`."""
        one = xp.full_like(outputs, 1.0)
        k = xp.sum(one if mask is None else xp.where(mask, one, 0.0), 1)[:, None]
        most = (k - 1.0) / k
        explore = xp.where(most < self.epsilon, most, self.epsilon)
        # Both branches of a choice are differentiated, so neither may divide by 0 or take log 0.
        some = explore > 0.0
        share = xp.where(some, explore / xp.where(k > 1.0, k - 1.0, 1.0), 1.0)
        best = xp.broadcast_to(xp.log(1.0 - explore), outputs)
        rival = xp.broadcast_to(xp.where(some, xp.log(share), -math.inf), outputs)
        greedy = xp.first_largest(outputs if mask is None else xp.where(mask, outputs, -math.inf))
        # Derivatives of every order are 0, and a framework that is asked for one finds the outputs.
        # An exponential, since PyTorch 2.13 miscompiles that of `outputs * outputs` with a gather.
        log_pi = xp.where(greedy, best, rival) + 0.0 * xp.exp(0.0 * outputs)
        return log_pi if mask is None else xp.where(mask, log_pi, -math.inf)
