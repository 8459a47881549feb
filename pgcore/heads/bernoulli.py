"""Independent binary actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pgcore.heads.discrete import DiscreteHead
from pgcore.validation.fields import Count, Positive
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Bernoulli"]


@dataclass(frozen=True, slots=True)
class Bernoulli(DiscreteHead):
    """Independent binary actions, 1 with probability sigmoid(w / temperature).

    Network outputs are the logits w [B, n]; each action is a softmax over the logits 0 and w. The
    distribution parameters [B, 2n] are log P(0) of every action, then log P(1), and the mask has
    the same columns: i and n + i say whether action i may be 0 and 1. Actions are [B, n] integers.

    Attributes:
        n: Number of binary actions, at least 1.
        temperature: Divides the logits; positive.
    """

    n: Count
    temperature: Positive = 1.0
    name: ClassVar[str] = "bernoulli"

    @property
    def outputs(self) -> int:
        """One logit an action."""
        return self.n

    @property
    def width(self) -> int:
        """Two log-probabilities an action."""
        return 2 * self.n

    @property
    def choices(self) -> tuple[slice, ...]:
        """See `Head.choices`: 0 and 1, n columns apart."""
        return tuple(slice(i, None, self.n) for i in range(self.n))

    def distribution(
        self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native
    ) -> Native:
        """See `Head.distribution`."""
        one = outputs if self.temperature == 1.0 else outputs / self.temperature
        zero = xp.full_like(one, 0.0)
        if mask is not None:
            zero = xp.where(mask[:, : self.n], zero, -math.inf)
            one = xp.where(mask[:, self.n :], one, -math.inf)
        # A softmax over pairs is exact for masked actions too, unlike a log-sigmoid.
        log_pi = xp.log_softmax(xp.concatenate((zero[:, :, None], one[:, :, None]), 2), 2)
        return xp.concatenate((log_pi[:, :, 0], log_pi[:, :, 1]), 1)

    def log_prob(self, xp: ArrayNamespace, distribution: Native, actions: Native) -> Native:
        """See `Head.log_prob`: the sum over the actions."""
        zero, one = distribution[:, : self.n], distribution[:, self.n :]
        return xp.sum(xp.where(actions > 0, one, zero), 1)

    # The score is 1 in the log-probability of each alternative drawn, as for any discrete head.
    fisher = DiscreteHead.fisher
