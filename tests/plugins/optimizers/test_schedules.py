import math

import pytest

from pgcore.errors import OptimizerError
from pgcore_optimizers.schedules import CosineSchedule, LinearSchedule


def test_a_line_passes_through_its_points():
    assert [LinearSchedule(0.8, 0.2, 3)(step) for step in range(4)] == pytest.approx(
        [0.8, 0.6, 0.4, 0.2], rel=1e-15
    )


def test_a_cosine_falls_slowly_then_fast_then_slowly():
    rate = CosineSchedule(1.0, 0.5, 4)
    expected = [1.0, 0.75 + 0.25 * math.sqrt(0.5), 0.75, 0.75 - 0.25 * math.sqrt(0.5), 0.5]
    assert [rate(step) for step in range(5)] == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("kind", [LinearSchedule, CosineSchedule])
@pytest.mark.parametrize(("initial", "final"), [(3e-4, 0.0), (0.1, 0.3), (1e-3, 3e-4)])
def test_both_ends_are_exact_and_the_last_rate_stays(kind, initial, final):
    rate = kind(initial, final, 7)
    assert rate(0) == initial
    assert [rate(step) for step in (7, 8, 1000)] == [final] * 3


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (LinearSchedule, (math.nan, 0.0, 1), r"LinearSchedule\.initial: .* got nan"),
        (LinearSchedule, (1.0, -0.5, 1), r"LinearSchedule\.final: .* got -0\.5"),
        (
            LinearSchedule,
            (1.0, 0.0, 0),
            r"LinearSchedule\.steps: expected an integer of at least 1, got 0",
        ),
        (
            CosineSchedule,
            (1.0, 0.0, 2.5),
            r"CosineSchedule\.steps: expected an integer of at least 1, got 2\.5",
        ),
    ],
)
def test_fields_are_checked(kind, fields, words):
    with pytest.raises(OptimizerError, match=words):
        kind(*fields)
