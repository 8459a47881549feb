"""The base of heads' reference implementations: quantities, derivatives and Fisher information.

It is built from the [B, outputs] network outputs of one pass, in any number system; see
`pgcore_check.reference.reference`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec
from pgcore.errors import SpecError
from pgcore.validation.arrays import Array
from pgcore_check.proofs import reference_of

__all__ = ["HeadForm", "head_form"]

Number = Any  # an array of whichever number system `lift` lifts into
Lift = Callable[[Array], Number]


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


def head_form(
    spec: PolicySpec,
    outputs: Number,
    parameters: Mapping[str, Number],
    batch: Batch,
    dtype: np.dtype[Any],
    lift: Lift,
) -> Any:
    """Return the reference implementation of a spec's head at some outputs.

    Args:
        spec: The architecture.
        outputs: [B, outputs] of the network.
        parameters: By canonical name, in the number system of the outputs.
        batch: The steps.
        dtype: The policy's dtype, to which actions are cast.
        lift: From NumPy arrays to the number system of the outputs.

    Raises:
        SpecError: the head's class has none.
    """
    head = spec.head
    form = reference_of(type(head))
    if form is None:
        raise SpecError(
            f"reference: expected a head with a reference implementation, got {head}; "
            "give one in a Proof, by the hook pgcore_proofs"
        )
    if head.discrete:
        return form(head, outputs, batch.actions, batch.action_mask)
    return form(head, outputs, parameters, lift(batch.actions.astype(dtype)))
