"""The general policy-gradient estimator: any parts that meet."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pgcore.errors import EstimatorError, PgcoreError
from pgcore.interfaces.estimator import AnyReduction, Reduction
from pgcore.parts import Composed, Composition, CriticLoss
from pgcore.parts.composition import Normalisation, several
from pgcore.parts.fields import (
    AnyAdvantage,
    AnyCorrection,
    AnyLevel,
    AnyMask,
    AnyObjective,
    AnyPenalty,
    part_of,
)
from pgcore.validation.fields import Number, set_field
from pgcore_estimators.parts.critics import Squared
from pgcore_estimators.terms import Ddof

__all__ = ["PolicyGradient"]

AUTO = "auto"
# The fields that hold parts.
KINDS = ("advantage", "objective", "level", "correction", "penalty", "mask", "critic")


def critic_or_auto(
    where: str, value: object, error: type[PgcoreError] = EstimatorError
) -> CriticLoss | str:
    """See `pgcore.validation.fields`: "auto" as it is, else a critic's loss."""
    return (
        AUTO
        if isinstance(value, str) and value == AUTO
        else part_of(CriticLoss)(where, value, error)
    )


@dataclass(frozen=True)
class PolicyGradient(Composed):
    """The composition of any parts.

    loss = sum_t w_t (-(mask_t correction_t gain_t) + penalties_t + c_v critic_t - c_e H_t)

    A field of a part takes an object, a registered name, or a table of options. A table without a
    name changes options of the field's default. Correction, penalty and mask may be lists.

    Attributes:
        advantage: A, and the critic's target, such as `pgcore.GAE(0.99, 0.95)`.
        objective: The gain, such as "clip" or {"name": "clip", "high": 0.28}.
        level: What the ratio is of, such as "token" or "sequence".
        correction: Constant weights for a rollout policy that is not the old policy.
        penalty: Terms that keep the policy near a reference.
        mask: The steps whose gain counts.
        critic: The critic's loss; "auto" is "squared" where the advantage has a target for it.
        value_coefficient: c_v.
        entropy_coefficient: c_e, of the entropy bonus; 0 leaves it out.
        normalise: Give advantages mean 0 and standard deviation 1: "none", "batch" or "minibatch".
        ddof: Of that standard deviation.
        reduction: How steps become a loss.

    Raises:
        EstimatorError: a field has a value it cannot take, or two parts do not fit each other.
        UnknownNameError: no part, or no option of one, has a name.
    """

    advantage: AnyAdvantage = "gae"
    objective: AnyObjective = "clip"
    level: AnyLevel = "token"
    correction: AnyCorrection | None = None
    penalty: AnyPenalty | None = None
    mask: AnyMask | None = None
    critic: Annotated[Any, critic_or_auto] | None = AUTO
    value_coefficient: Number = 0.5
    entropy_coefficient: Number = 0.0
    normalise: Normalisation = "none"
    ddof: Ddof = 1
    reduction: AnyReduction = Reduction.STEP
    name: ClassVar[str] = "policy_gradient"
    sources: ClassVar[tuple[str, ...]] = (
        "Sutton et al. 2000, theorem 1 (policy gradient); further those of the parts",
    )

    def __post_init__(self) -> None:
        """Complete tables without a name, check the fields, and compose."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if (
                field.name in KINDS
                and isinstance(value, Mapping)
                and field.default not in (None, AUTO)
            ):
                set_field(self, field.name, {"name": field.default, **value})
        super().__post_init__()

    def adapted(self, metrics: Mapping[str, float]) -> PolicyGradient:
        """See `Estimator.adapted`: the penalties' coefficients may follow the update's metrics."""
        present = several(self.penalty)
        adapted = tuple(penalty.adapted(metrics) for penalty in present)
        if adapted == present:
            return self
        penalty = adapted if isinstance(self.penalty, tuple) else adapted[0]
        return dataclasses.replace(self, penalty=penalty)

    def compose(self) -> Composition:
        """See `Composed.compose`."""
        parts = {kind: getattr(self, kind) for kind in KINDS}
        if parts["critic"] == AUTO:
            parts["critic"] = Squared() if self.advantage.gives_return else None
        return Composition.of(
            parts,
            value_coefficient=self.value_coefficient,
            entropy_coefficient=self.entropy_coefficient,
            normalise=self.normalise,
            ddof=self.ddof,
            reduction=self.reduction,
        )
