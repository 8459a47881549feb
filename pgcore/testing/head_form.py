"""What a head's closed form is for the reference: quantities, their derivatives and Fisher information, row by row.

A form is made from one pass's network outputs, [B, outputs] in whichever number system; see `pgcore.testing.reference`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

__all__ = ["HeadForm"]

Number = Any  # an array of whichever number system `lift` lifts into


class HeadForm(ABC):
    """One head's closed forms at a batch's steps.

    Attributes:
        own: Derivatives of the head's own parameters by name, after `backward` or `fisher`.
    """

    own: dict[str, Number]

    @abstractmethod
    def log_prob(self) -> Number:
        """Return [B] log pi(a_t given s_t)."""

    @abstractmethod
    def entropy(self) -> Number:
        """Return [B] entropies."""

    @abstractmethod
    def kl(self, reference: Number) -> Number:
        """Return [B] KL(reference, current) for a [B, width] description of the reference."""

    @abstractmethod
    def reverse_kl(self, reference: Number) -> Number:
        """Return [B] KL(current, reference)."""

    @abstractmethod
    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """Return [B, outputs] derivatives of a loss from its derivatives in the quantities, which were computed before."""

    @abstractmethod
    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """Return [B, outputs] w_t F_t v_t, F_t the Fisher information of step t's outputs.

        Args:
            tangent: [B, outputs] v, the outputs' derivative along a direction in parameter space.
            direction: That direction, by canonical parameter name.
            weights: [B] w.
        """
