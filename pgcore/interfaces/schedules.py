"""Learning-rate schedules: a rate for each optimizer step k = 0, 1, 2, ..."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, cast

from pgcore.errors import OptimizerError, PgcoreError
from pgcore.validation.fields import Checked, Count, NonNegative

__all__ = ["ConstantSchedule", "CosineSchedule", "LinearSchedule", "Schedule"]


class Schedule(Checked, ABC):
    """A function of the number of optimizer steps taken so far.

    A subclass is a frozen dataclass whose fields declare their checks (see `pgcore.validation.fields`). It is
    registered under `name` by the hook `pgcore_schedules`, for `pgcore train` to name it.
    """

    __slots__ = ()
    field_error: ClassVar[type[PgcoreError]] = OptimizerError
    name: ClassVar[str]

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the rate of step number `step`, counted from 0."""

    @classmethod
    def over(cls, *, initial: float, final: float, steps: int | None) -> Schedule:
        """Return the schedule of one run, from those of the arguments that are fields of the class.

        A field `value` takes the initial rate.

        Args:
            initial: Rate at the first step.
            final: Rate at the end of the run.
            steps: Optimizer steps of the run, or None where that is not known beforehand.

        Raises:
            OptimizerError: `steps` is a field and not known, or the class has other fields to fill.
        """
        arguments = {"value": initial, "initial": initial, "final": final, "steps": steps}
        names = [field.name for field in dataclasses.fields(cast("Any", cls))]
        if steps is None and "steps" in names:
            raise OptimizerError(
                f"{cls.__name__}: expected 'constant' for an estimator that collects whole episodes, "
                f"got {cls.name!r}; how many updates such a run has is not known beforehand"
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


@dataclass(frozen=True, slots=True)
class LinearSchedule(Schedule):
    """From `initial` to `final` in a straight line over `steps` steps, then `final`."""

    initial: NonNegative
    final: NonNegative
    steps: Count
    name: ClassVar[str] = "linear"

    def __call__(self, step: int) -> float:
        """See `Schedule`."""
        done = min(step / self.steps, 1.0)
        return self.initial * (1.0 - done) + self.final * done


@dataclass(frozen=True, slots=True)
class CosineSchedule(Schedule):
    """From `initial` to `final` along half a cosine over `steps` steps, then `final`.

    Source: Loshchilov and Hutter 2017, eq. 5, arXiv:1608.03983, without restarts.
    """

    initial: NonNegative
    final: NonNegative
    steps: Count
    name: ClassVar[str] = "cosine"

    def __call__(self, step: int) -> float:
        """See `Schedule`."""
        done = min(step / self.steps, 1.0)
        return self.final + (self.initial - self.final) * 0.5 * (1.0 + math.cos(math.pi * done))
