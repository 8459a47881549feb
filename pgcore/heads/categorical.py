"""Softmax distributions over numbered actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pgcore.heads.discrete import DiscreteHead
from pgcore.validation.fields import Count, Positive
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Categorical"]


@dataclass(frozen=True, slots=True)
class Categorical(DiscreteHead):
    """Softmax over `n` actions with a temperature.

    Network outputs are the logits w [B, n], pi = softmax(w / temperature). The distribution
    parameters [B, n] are log pi, -inf for masked actions.

    Attributes:
        n: Number of actions, at least 1.
        temperature: Divides the logits; positive.
    """

    n: Count
    temperature: Positive = 1.0
    name: ClassVar[str] = "categorical"
    enumerable: ClassVar[bool] = True

    @property
    def outputs(self) -> int:
        """One logit an action."""
        return self.n

    def distribution(
        self, xp: ArrayNamespace, outputs: Native, parameters: dict[str, Native], mask: Native
    ) -> Native:
        """See `Head.distribution`."""
        # The usual temperature needs no division.
        logits = outputs if self.temperature == 1.0 else outputs / self.temperature
        return xp.log_softmax(logits if mask is None else xp.where(mask, logits, -math.inf), 1)
