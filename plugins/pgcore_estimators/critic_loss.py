"""The value loss and entropy bonus of estimators with a critic."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pgcore.interfaces.estimator import Claims, Estimator
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import Native

__all__ = ["CriticLoss"]


class CriticLoss(Estimator):
    """The value loss and entropy bonus of a policy with a critic: c_v (V - R)^2 / 2 - c_e H.

    It has no fields: a subclass declares them in the order of its own documentation.

    Attributes:
        critic_quantity: The quantity V that the value loss differentiates.
        value_coefficient: c_v.
        entropy_coefficient: c_e; 0 leaves the entropy out.
    """

    critic_quantity: ClassVar[str] = "value"
    value_coefficient: float
    entropy_coefficient: float = 0.0

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(unbiased=False, off_policy="none", needs_critic=True, discrete_only=False)

    def uses(self, name: str) -> bool:
        """See `Estimator.uses`."""
        # Without a bonus, the policy's entropy need not be evaluated.
        return name != "entropy" or self.entropy_coefficient != 0

    def add_auxiliary_terms(
        self, terms: Native, value: Native = None, return_: Native = None, entropy: Native = None
    ) -> Native:
        """Return [B] terms + c_v (V - R)^2 / 2 - c_e H; a None leaves its part out."""
        if value is not None:
            error = value - return_
            terms = terms + self.value_coefficient * 0.5 * error * error
        if entropy is not None:
            terms = terms - self.entropy_coefficient * entropy
        return terms

    def auxiliary_cotangents(
        self, value: Array | None = None, return_: Array | None = None, entropy: Array | None = None
    ) -> dict[str, Array]:
        """Return the derivatives of `add_auxiliary_terms` by quantity, [B] each."""
        cotangents: dict[str, Array] = {}
        if value is not None:
            cotangents[self.critic_quantity] = self.value_coefficient * (value - return_)
        if entropy is not None:
            cotangents["entropy"] = np.full_like(entropy, -self.entropy_coefficient)
        return cotangents
