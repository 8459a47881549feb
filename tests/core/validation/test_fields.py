from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, cast

import numpy as np
import pytest

from pgcore.errors import EstimatorError, SpecError
from pgcore.validation.fields import (
    Checked,
    Count,
    Flag,
    Positive,
    UnitInterval,
    choice,
    count,
    non_negative,
    number,
    positive,
    unit_interval,
)

NOT_NUMBERS = [
    None,
    "1",
    True,
    np.True_,
    1j,
    Decimal(1),
    [1.0],
    np.ones(1),
    float("nan"),
    float("inf"),
    10**400,
    10**5000,
]


@pytest.mark.parametrize("check", [number, positive, unit_interval])
@pytest.mark.parametrize(
    "value", [1, 1.0, np.float32(1), np.int8(1), Fraction(1), np.longdouble(1)]
)
def test_any_real_number_comes_back_as_a_plain_float(check, value):
    assert type(check("x", value)) is float
    assert check("x", value) == 1.0


@pytest.mark.parametrize("check", [number, positive, unit_interval])
@pytest.mark.parametrize("value", NOT_NUMBERS, ids=range(len(NOT_NUMBERS)))
def test_what_is_no_finite_number_is_refused_in_few_words(check, value):
    with pytest.raises(SpecError, match=r"^Thing\.x: expected a .*number.*, got .*; ") as caught:
        check("Thing.x", value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [1, np.int64(1), np.uint8(1)])
def test_a_count_comes_back_as_a_plain_int(value):
    assert type(count("x", value)) is int
    assert count("x", value) == 1


@pytest.mark.parametrize("value", [0, -1, 1.0, True, "2", None, -(10**5000)], ids=range(7))
def test_what_is_no_count_is_refused(value):
    with pytest.raises(SpecError, match=r"Thing\.n: expected an integer of at least 1, got "):
        count("Thing.n", value)


@pytest.mark.parametrize(
    ("check", "inside", "outside"),
    [
        (positive, [5e-324, 1e308], [0.0, -0.0, -1.0]),
        (unit_interval, [0.0, 0.5, 1.0], [-5e-324, 1.0000000000000002]),
    ],
)
def test_bounds(check, inside, outside):
    assert [check("x", value) for value in inside] == inside
    for value in outside:
        with pytest.raises(SpecError, match=f"got {value!r}"):
            check("x", value)


def test_the_least_number_is_allowed_and_named():
    assert non_negative("x", 0) == 0.0
    with pytest.raises(SpecError, match=r"expected a finite number of at least 0, got -0\.2;"):
        non_negative("x", -0.2)


def test_a_choice_lists_the_choices():
    assert choice("a", "b")("x", "b") == "b"
    with pytest.raises(SpecError, match="x: expected one of 'a', 'b', got 'c'; choose one of them"):
        choice("a", "b")("x", "c")


@pytest.mark.parametrize("check", [count, number, positive, unit_interval])
def test_the_error_class_is_the_callers(check):
    with pytest.raises(EstimatorError):
        check("x", None, EstimatorError)
    with pytest.raises(EstimatorError):
        choice()("x", None, EstimatorError)


def test_a_long_value_is_cut_short():
    with pytest.raises(SpecError, match=r"got 'z{70,76}\.\.\.; choose"):
        choice("a")("x", "z" * 1000)


@dataclass(frozen=True, slots=True)
class Settings(Checked):
    rate: Positive
    size: Count = 3
    target: UnitInterval | None = None
    kind: Annotated[str, choice("a", "b")] = "a"
    free: object = None


@dataclass(frozen=True)
class Narrower(Settings):
    extra: Flag = False
    field_error = EstimatorError
    section = "section"


def test_declared_fields_hold_plain_numbers():
    values: dict[str, Any] = {"rate": np.float32(0.5), "size": np.int64(2), "target": 1}
    settings = Settings(**values, kind="b", free=[])
    assert settings == Settings(0.5, 2, 1.0, "b", [])
    assert [type(value) for value in (settings.rate, settings.size, settings.target)] == [
        float,
        int,
        float,
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": -1.0}, r"Settings\.rate: expected a positive number, got -1\.0"),
        ({"rate": None}, r"Settings\.rate: expected a positive number, got None"),
        ({"rate": 1.0, "size": 0}, r"Settings\.size: expected an integer of at least 1, got 0"),
        ({"rate": 1.0, "target": 2}, r"Settings\.target: expected a number in \[0, 1\], got 2"),
        ({"rate": 1.0, "kind": "c"}, r"Settings\.kind: expected one of 'a', 'b', got 'c'"),
    ],
)
def test_a_field_that_declares_a_check_refuses_other_values(fields, message):
    with pytest.raises(SpecError, match=message):
        Settings(**fields)


def test_a_subclass_checks_inherited_fields_too_under_its_own_name_and_error():
    with pytest.raises(EstimatorError, match=r"section\.extra: expected True or False, got 1"):
        Narrower(1.0, extra=cast("bool", 1))
    with pytest.raises(EstimatorError, match=r"section\.rate: expected a positive number"):
        Narrower(0.0)


def test_annotations_that_only_a_type_checker_can_evaluate_declare_nothing():
    loose: Any = dataclass(frozen=True)(
        type("Loose", (Checked,), {"__annotations__": {"x": "Nowhere"}, "__module__": __name__})
    )
    assert loose(-1).x == -1
