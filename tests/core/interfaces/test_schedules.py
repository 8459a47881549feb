from dataclasses import dataclass

import pytest

from pgcore.errors import OptimizerError
from pgcore.interfaces.schedules import ConstantSchedule, Schedule


def test_a_constant_never_changes():
    assert [ConstantSchedule(0.5)(step) for step in (0, 1, 10**9)] == [0.5] * 3


def test_a_constant_is_checked():
    words = r"ConstantSchedule\.value: expected a finite number of at least 0, got -1\.0"
    with pytest.raises(OptimizerError, match=words):
        ConstantSchedule(-1.0)


def test_a_schedule_of_other_fields_says_to_override_over():
    @dataclass(frozen=True)
    class Wave(Schedule):
        period: float
        name = "wave"

        def __call__(self, step):
            return step % self.period

    words = r"Wave\.over: expected a schedule of initial, final and steps, got the fields period;"
    with pytest.raises(OptimizerError, match=words):
        Wave.over(initial=0.1, final=0.0, steps=4)
