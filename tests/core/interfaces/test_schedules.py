import pytest

from pgcore.errors import OptimizerError
from pgcore.interfaces.schedules import ConstantSchedule


def test_a_constant_never_changes():
    assert [ConstantSchedule(0.5)(step) for step in (0, 1, 10**9)] == [0.5] * 3


def test_a_constant_is_checked():
    words = r"ConstantSchedule\.value: expected a finite number of at least 0, got -1\.0"
    with pytest.raises(OptimizerError, match=words):
        ConstantSchedule(-1.0)
