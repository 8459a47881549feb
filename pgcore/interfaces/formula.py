"""Update formulas of first-order optimizers, and the native state that a backend keeps for one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pgcore.errors import OptimizerError, PgcoreError
from pgcore.interfaces.copying import Copied
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.schedules import Schedule
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Checked, Positive, positive
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["BoundOptimizer", "LearningRate", "OptimizerSpec"]


def rate_or_schedule(
    where: str, value: object, error: type[PgcoreError] = OptimizerError
) -> float | Schedule:
    """Return a schedule as it is and a number above 0 as a float; see `pgcore.validation.fields`."""
    return value if isinstance(value, Schedule) else positive(where, value, error)


# The type of a field `learning_rate`, which declares this check.
LearningRate = Annotated[float | Schedule, rate_or_schedule]


@dataclass(frozen=True)
class OptimizerSpec(Checked, ABC):
    """A first-order optimizer's hyper-parameters and its update formula.

    Attributes:
        name: Its registered name.
        slots: Names of the arrays kept for each parameter, all starting at 0.
        whole_batch: See `pgcore.interfaces.optimizer.Rule`.
        learning_rate: A positive number, or a schedule.
        max_grad_norm: Scale the gradient g to g * c / max(norm, c) with this c, over all parameters,
            before the update; None leaves it.
    """

    learning_rate: LearningRate = 1e-3
    max_grad_norm: Positive | None = None
    field_error = OptimizerError
    name: ClassVar[str]
    slots: ClassVar[tuple[str, ...]] = ()
    whole_batch: ClassVar[bool] = False

    def scalars(self, step: int, learning_rate: float) -> tuple[float, ...]:
        """Return the numbers of one step that `update` needs; the learning rate by default.

        They are computed apart, in double precision, so that a backend compiles `update` only once.

        Args:
            step: Counted from 1, for bias correction.
            learning_rate: This step's.
        """
        return (learning_rate,)

    @abstractmethod
    def update(
        self,
        xp: ArrayNamespace,
        parameter: Native,
        gradient: Native,
        slots: Mapping[str, Native],
        *scalars: Native,
    ) -> tuple[Native, dict[str, Native]]:
        """Return the new parameter and the new slots.

        Args:
            xp: The backend's array functions.
            parameter: Any shape, the policy's dtype.
            gradient: Of the same shape, after clipping.
            slots: By the names in `slots`, of the same shape.
            scalars: The result of `scalars`, as Python numbers or native ones.
        """

    def rate(self, step: int) -> float:
        """Return the learning rate of step number `step`, counted from 0."""
        rate = self.learning_rate
        return rate(step) if isinstance(rate, Schedule) else rate


class BoundOptimizer(Copied, ABC):
    """An optimizer's native state for one policy; made by a backend."""

    @abstractmethod
    def step(self, gradient: Gradient, scalars: tuple[float, ...]) -> None:
        """Update the slots and the policy's parameters; see `OptimizerSpec.scalars`."""

    @abstractmethod
    def slots(self) -> dict[str, dict[str, Array]]:
        """Return slot name to parameter name to array, which the caller owns."""

    @abstractmethod
    def load(self, slots: Mapping[str, Mapping[str, Array]]) -> None:
        """Replace what `slots` returns."""
