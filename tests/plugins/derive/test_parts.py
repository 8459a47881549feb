"""The formula of a single part, and its derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import EstimatorError
from pgcore.parts import Objective
from pgcore_derive.derivation import derive
from pgcore_derive.parts import derive_part
from pgcore_estimators.parts.cispo import ClippedWeight
from pgcore_estimators.parts.critics import Huber, Squared
from pgcore_estimators.parts.gmpo import LimitedRatio
from pgcore_estimators.parts.levels import GSPOToken, Sequence, SequenceProduct

LOG_PI, LOG_R = r"\log \pi", r"\log r"


def test_an_objective_is_a_function_of_the_levels_ratio():
    formula = derive_part(pg.Clip(0.2, 0.28))
    assert formula is not None
    assert r"1.28 A & \text{if } r > 1.28 \text{ and } A \geq 0" in formula.latex
    assert formula.derivatives.keys() == {LOG_R}
    assert r"A r & \text{otherwise}" in formula.derivatives[LOG_R]


def test_the_limit_of_single_steps_is_part_of_the_formula():
    formula = derive_part(LimitedRatio(high=0.0953101798043249))
    assert formula is not None
    assert r"r > 1.1" in formula.latex


def test_a_weight_held_constant_is_no_derivative():
    formula = derive_part(ClippedWeight(high=1.0))
    assert formula is not None
    assert formula.derivatives == {
        LOG_R: r"\begin{cases} 2 A & \text{if } r > 2 \\ A r & \text{otherwise} \end{cases}"
    }


@pytest.mark.parametrize(
    ("part", "derivatives"),
    [
        (pg.KL("k1", 1.0), {LOG_PI: "1"}),
        (pg.KL("k3", 1.0), {LOG_PI: r"1 - \frac{\pi_{\mathrm{ref}}}{\pi}"}),
        (pg.KL("exact", 0.5), {r"\mathrm{KL}": "0.5"}),
        (Squared(half=False), {"V": r"2 \left(V - R\right)"}),
        (Sequence(), {LOG_R: "1"}),
        (SequenceProduct(), {LOG_R: "T"}),
        (GSPOToken(), {LOG_PI: "1"}),
    ],
)
def test_derivatives(part, derivatives):
    formula = derive_part(part)
    assert formula is not None
    assert formula.derivatives == derivatives


def test_the_sign_in_front_of_a_sum_is_of_the_whole_sum():
    formula = derive_part(Huber())
    assert formula is not None
    # Beyond the lower bound of 1 the loss of an error e is -(e + 1/2).
    assert r"- \left(V + 0.5 - R\right) & \text{if } V - R < -1" in formula.latex


def test_small_numbers_have_a_power_of_ten():
    estimator = pg.estimator("policy_gradient", objective={"name": "clip", "low": 1 - 1e-8})
    assert r"< 10^{-8}" in derive(estimator).latex["log_prob"]


def test_a_part_of_the_signals_has_no_formula():
    assert derive_part(pg.GAE()) is None


@dataclass(frozen=True)
class OfNumpy(Objective):
    """Uses NumPy in place of xp."""

    name = "of_numpy"

    def gain(self, xp, log_ratio, log_prob, advantage, **inputs):
        return advantage * np.exp(log_ratio)


def test_a_formula_that_cannot_be_traced_is_an_error_that_names_the_part():
    with pytest.raises(EstimatorError, match=r"objective 'of_numpy': .*got np\.exp"):
        derive_part(OfNumpy())
