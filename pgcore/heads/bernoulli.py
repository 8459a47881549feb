"""Independent switches."""

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
    """Independent switches, each on with probability sigmoid(w / temperature): a softmax over the logits 0 and w.

    Network outputs are the logits w [B, n]. The [B, 2n] description holds log P(off) of every switch, then log P(on), and so does the
    mask: column i says whether switch i may be off, column n + i whether it may be on. Actions are [B, n] integers, 1 where on.

    Attributes:
        n: Number of switches, at least 1.
        temperature: Divides the logits; positive.

    Raises:
        SpecError: n below 1, or temperature not a positive number.
    """

    n: Count
    temperature: Positive = 1.0
    name: ClassVar[str] = "bernoulli"

    @property
    def outputs(self) -> int:
        """One logit a switch."""
        return self.n

    @property
    def width(self) -> int:
        """Two log-probabilities a switch."""
        return 2 * self.n

    @property
    def choices(self) -> tuple[slice, ...]:
        """See `Head.choices`: off and on, n columns apart."""
        return tuple(slice(i, None, self.n) for i in range(self.n))

    def distribution(
        self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native
    ) -> Native:
        """See `Head.distribution`."""
        on = outputs if self.temperature == 1.0 else outputs / self.temperature
        off = xp.full_like(on, 0.0)
        if mask is not None:
            off, on = (
                xp.where(mask[:, : self.n], off, -math.inf),
                xp.where(mask[:, self.n :], on, -math.inf),
            )
        log_pi = xp.log_softmax(xp.concatenate((off[:, :, None], on[:, :, None]), 2), 2)
        return xp.concatenate((log_pi[:, :, 0], log_pi[:, :, 1]), 1)

    def log_prob(self, xp: ArrayNamespace, distribution: Native, actions: Native) -> Native:
        """See `Head.log_prob`: the sum over the switches."""
        return xp.sum(
            xp.where(actions > 0, distribution[:, self.n :], distribution[:, : self.n]), 1
        )

    # The score is 1 in the log-probability of each alternative that was taken, as for any discrete head.
    fisher = DiscreteHead.fisher
