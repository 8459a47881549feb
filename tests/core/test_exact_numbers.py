"""Numbers that nothing rounds, and their logarithms."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pgcore.exact.numbers import Log, Number, logs, numbers

HALF, THIRD = Number(1, 2), Number(1, 3)


def test_results_are_numbers_whichever_side_they_stand_on():
    for found, expected in (
        (HALF + THIRD, Fraction(5, 6)),
        (2 - THIRD, Fraction(5, 3)),
        (Fraction(1, 4) * HALF, Fraction(1, 8)),
        ((np.array([HALF]) / np.int64(3))[0], Fraction(1, 6)),
        (1.0 / THIRD, Fraction(3)),
        (HALF**2, Fraction(1, 4)),
        (-HALF, Fraction(-1, 2)),
        (abs(-HALF), Fraction(1, 2)),
    ):
        assert (type(found), found) == (Number, expected)


def test_nothing_is_rounded():
    for rounding in (
        lambda: HALF + 0.5,
        lambda: 0.1 * HALF,
        lambda: float(HALF),
        lambda: np.array([HALF]).astype(float),
        lambda: np.sqrt(np.array([HALF])),
        lambda: np.exp(np.array([HALF])),
        lambda: Log(2) + 1,
        lambda: Log(2) * HALF,
        lambda: Log(2) / 2,
        lambda: np.array([0.5]) - np.array([Log(2)]),
    ):
        with pytest.raises(TypeError):
            rounding()


def test_logarithms_are_taken_away_by_their_exponential():
    array = numbers(np.array([[Fraction(1, 2), Fraction(3)], [Fraction(2, 3), Fraction(1)]], object))
    assert (np.exp(logs(array)) == array).all()
    assert (np.log(array) == logs(array)).all()
    assert np.exp(np.add.reduce(logs(array), axis=None)) == 1
    assert np.exp(logs(array)[0] - logs(array)[1]).tolist() == [Fraction(3, 4), Fraction(3)]
    assert np.exp(logs(array) * np.array([0.0, 2.0])).tolist() == [[1, 9], [1, 1]]
    assert (Log(1) / 3).exp() == 1
    assert Number(0).exp() == 1


def test_logarithms_are_ordered():
    assert sorted([Log(3), Log(THIRD), Log(1)]) == [Log(THIRD), Log(1), Log(3)]
    assert Log(3) > 1.0 > Log(2) > 0.5
    assert Log(1) == 0.0
    assert len({Log(2), Log(Number(4, 2)), Log(3)}) == 2


def test_a_logarithm_can_be_taken_from_nothing():
    third = Log(Fraction(1, 3))
    assert (-third).exp() == (0 - third).exp() == 3
    assert (Log(2) - third).exp() == 6
