"""Learning-rate schedules that go from one rate to another over a number of optimizer steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from pgcore.interfaces.schedules import Schedule
from pgcore.validation.fields import Count, NonNegative

__all__ = ["CosineSchedule", "LinearSchedule"]


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
