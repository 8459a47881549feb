"""The base of heads' reference implementations: quantities, derivatives and Fisher information.

It is built from the [B, outputs] network outputs of one pass, in any number system; see
`pgcore_check.reference.reference`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

__all__ = ["HeadForm"]

Number = Any  # an array of whichever number system `lift` lifts into


class HeadForm(ABC):
    """One head's closed forms at a batch's steps.

    It is called with head, outputs, actions and mask where actions are discrete; else with head,
    outputs, parameters by canonical name, and lifted actions.

    Attributes:
        own: Derivatives in the head's parameters by name, after `backward` or `fisher`.
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
        """Return [B] KL(reference, current) for [B, width] distribution parameters."""

    @abstractmethod
    def reverse_kl(self, reference: Number) -> Number:
        """Return [B] KL(current, reference)."""

    @abstractmethod
    def backward(self, cotangents: Mapping[str, Number]) -> Number:
        """Return [B, outputs] derivatives of a loss.

        Args:
            cotangents: [B, ...] derivatives of the loss in quantities, by name. A KL's method was
                called before.
        """

    @abstractmethod
    def fisher(self, tangent: Number, direction: Mapping[str, Number], weights: Number) -> Number:
        """Return [B, outputs] w_t F_t v_t, F_t the Fisher information of step t's outputs.

        Args:
            tangent: [B, outputs] v, the outputs' derivative along a direction in parameter space.
            direction: The direction by canonical parameter name.
            weights: [B] w.
        """
