"""The KL divergence to a reference distribution as a penalty, in closed form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.extras import Extra
from pgcore.parts import Penalty
from pgcore.parts.penalties import Divergence
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Number, Positive, choice
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["ExactKL"]

# A masked action's log-probability is -inf.
REFERENCE = Extra(
    "[B, width] number",
    "the reference policy's distribution parameters",
    optional=True,
    finite=False,
)


@dataclass(frozen=True)
class ExactKL(Penalty):
    """KL(reference, pi) or KL(pi, reference) of the whole distribution, times its coefficient.

    The reference is the batch's extra `reference`, by default the current policy at the time of the
    signals.

    Attributes:
        coefficient: Its factor; 0 leaves it out.
        direction: "kl" for KL(reference, pi), "reverse_kl" for KL(pi, reference).
        target: Mean KL that an update should have, nats. After an update of more than 1.5 times it the
            coefficient doubles, and it halves below 1 / 1.5. None keeps the coefficient.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    coefficient: Number = 1.0
    direction: Annotated[str, choice("kl", "reverse_kl")] = "kl"
    target: Positive | None = None
    extras: ClassVar = {"reference": REFERENCE}
    name = "exact"
    sources = ("Schulman et al. 2017, eq. 8 and sec. 4, arXiv:1707.06347",)

    @property
    def gradient_of(self) -> Divergence:
        """See `Penalty`."""
        return "kl" if self.direction == "kl" else "reverse_kl"

    @property
    def off_policy(self) -> bool:
        """See `Penalty`: no action is sampled."""
        return True

    @property
    def reads(self) -> tuple[str, ...]:
        """See `Part.reads`."""
        return (self.direction,)

    def signals(self, batch: Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Part.signals`: distribution parameters."""
        reference = batch.extras.get("reference")
        if reference is None:
            reference = evaluate("distribution")["distribution"]
        return {"reference": reference}

    def term(self, xp: ArrayNamespace, **inputs: Native) -> Native:
        """See `Penalty.term`."""
        return self.coefficient * inputs[self.direction]

    def slope(self, **inputs: Any) -> Mapping[str, Array]:
        """See `Penalty.slope`."""
        return {self.direction: np.full_like(inputs[self.direction], self.coefficient)}

    def adapted(self, metrics: Mapping[str, float]) -> ExactKL:
        """See `Penalty.adapted`."""
        if self.target is None or self.direction not in metrics:
            return self
        # The factors 1.5 and 2 are those of Schulman et al. 2017, sec. 4.
        if metrics[self.direction] > 1.5 * self.target:
            return dataclasses.replace(self, coefficient=self.coefficient * 2.0)
        if metrics[self.direction] < self.target / 1.5:
            return dataclasses.replace(self, coefficient=self.coefficient / 2.0)
        return self
