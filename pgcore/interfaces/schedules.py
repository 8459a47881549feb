"""Learning-rate schedules: a rate for each optimizer step k = 0, 1, 2, ..."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from pgcore.errors import OptimizerError, PgcoreError
from pgcore.validation.fields import Checked, NonNegative

__all__ = ["ConstantSchedule", "Schedule"]


class Schedule(Checked, ABC):
    """A function of the number of optimizer steps taken so far.

    A subclass is a frozen dataclass whose fields declare their checks; see `pgcore.validation.fields`.
    The hook `pgcore_schedules` registers it under `name`, for `pgcore train`.
    """

    __slots__ = ()
    field_error: ClassVar[type[PgcoreError]] = OptimizerError
    registered_as = "schedules"  # the kind
    name: ClassVar[str]

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the rate of step number `step`, counted from 0."""

    @classmethod
    def over(cls, *, initial: float, final: float, steps: int | None) -> Schedule:
        """Return the schedule of one run; each argument fills the field of its name, where there is one.

        Args:
            initial: Rate at the first step; fills a field `value` too.
            final: Rate at the end of the run.
            steps: Optimizer steps of the run, None where unknown beforehand.

        Raises:
            OptimizerError: the schedule needs the number of steps, or has other fields.
        """
        arguments = {"value": initial, "initial": initial, "final": final, "steps": steps}
        names = [field.name for field in dataclasses.fields(cast("Any", cls))]
        if steps is None and "steps" in names:
            raise OptimizerError(
                f"{cls.__name__}: expected 'constant' for an estimator that collects whole episodes, "
                f"got {cls.name!r}; the number of updates is not known beforehand"
            )
        try:
            return cls(**{name: value for name, value in arguments.items() if name in names})
        except TypeError as error:
            raise OptimizerError(
                f"{cls.__name__}.over: expected a schedule of initial, final and steps, "
                f"got the fields {', '.join(names)}; override `over` to fill the others"
            ) from error


@dataclass(frozen=True, slots=True)
class ConstantSchedule(Schedule):
    """The same rate at every step."""

    value: NonNegative
    name: ClassVar[str] = "constant"

    def __call__(self, step: int) -> float:
        """See `Schedule`."""
        return self.value
