"""Learning-rate schedules: a rate for each optimizer step k = 0, 1, 2, ..."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from pgcore.checks import count, number, set_field
from pgcore.errors import OptimizerError

__all__ = ["ConstantSchedule", "CosineSchedule", "LinearSchedule", "Schedule"]


class Schedule(ABC):
    """A function of the number of optimizer steps taken so far."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """Return the rate of step number `step`, counted from 0."""


@dataclass(frozen=True, slots=True)
class ConstantSchedule(Schedule):
    """The same rate at every step."""

    value: float

    def __post_init__(self) -> None:
        """Check the fields."""
        set_field(self, "value", number("ConstantSchedule.value", self.value, OptimizerError, least=0.0))

    def __call__(self, step: int) -> float:
        """See `Schedule`."""
        return self.value


@dataclass(frozen=True, slots=True)
class LinearSchedule(Schedule):
    """From `initial` to `final` in a straight line over `steps` steps, then `final`."""

    initial: float
    final: float
    steps: int

    def __post_init__(self) -> None:
        """Check the fields."""
        check_decay(self)

    def __call__(self, step: int) -> float:
        """See `Schedule`."""
        done = min(step / self.steps, 1.0)
        return self.initial * (1.0 - done) + self.final * done


@dataclass(frozen=True, slots=True)
class CosineSchedule(Schedule):
    """From `initial` to `final` along half a cosine over `steps` steps, then `final`.

    Source: Loshchilov and Hutter 2017, eq. 5, arXiv:1608.03983, without restarts.
    """

    initial: float
    final: float
    steps: int

    def __post_init__(self) -> None:
        """Check the fields."""
        check_decay(self)

    def __call__(self, step: int) -> float:
        """See `Schedule`."""
        done = min(step / self.steps, 1.0)
        return self.final + (self.initial - self.final) * 0.5 * (1.0 + math.cos(math.pi * done))


def check_decay(schedule: LinearSchedule | CosineSchedule) -> None:
    """Check the fields of a schedule that goes from one rate to another."""
    where = type(schedule).__name__
    set_field(schedule, "initial", number(f"{where}.initial", schedule.initial, OptimizerError, least=0.0))
    set_field(schedule, "final", number(f"{where}.final", schedule.final, OptimizerError, least=0.0))
    set_field(schedule, "steps", count(f"{where}.steps", schedule.steps, OptimizerError))
