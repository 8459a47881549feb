"""Signals for batches from another policy, each beside its definition written out."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import EstimatorError, ShapeError
from pgcore.returns import cumulative_log_ratios, gae, limited_ratios, retrace, vtrace

LENGTHS = np.array([3, 1, 4])
ENDS = LENGTHS.cumsum() - 1
GAMMA = 0.9


@pytest.fixture
def steps():
    """Rewards, values, next values and log ratios of three episodes."""
    rng = np.random.default_rng(0)
    r_t, v_t, log_ratio_t = rng.standard_normal((3, 8))
    v_tp1 = np.append(v_t[1:], 0.0)
    v_tp1[ENDS] = [0.5, 0.0, -0.3]
    return r_t, v_t, v_tp1, log_ratio_t


def episodes():
    """Yield each episode's step numbers."""
    start = 0
    for length in LENGTHS:
        yield range(start, start + length)
        start += length


def test_cumulative_log_ratios_start_again_with_each_episode(steps):
    log_ratio_t = steps[3]
    found = cumulative_log_ratios(log_ratio_t, LENGTHS)
    for own in episodes():
        for t in own:
            assert found[t] == pytest.approx(
                math.fsum(log_ratio_t[own.start : t + 1]), rel=1e-15, abs=1e-15
            )
    with pytest.raises(ShapeError, match="cumulative_log_ratios: expected lengths that sum to 8"):
        cumulative_log_ratios(log_ratio_t, np.array([7]))


def test_limited_ratios_are_limited_before_anything_overflows():
    np.testing.assert_array_equal(
        limited_ratios(np.array([-math.inf, 0.0, 1e6]), 1.0), [0.0, 1.0, 1.0]
    )
    assert limited_ratios(np.array([math.log(3.0)]), 2.5)[0] == pytest.approx(2.5, rel=1e-15)
    assert limited_ratios(np.array([math.log(3.0)]), math.inf)[0] == pytest.approx(3.0, rel=1e-15)


@pytest.mark.parametrize(
    "limit", [2, np.float32(2.0), np.int64(2), math.inf, np.float32(np.inf), Fraction(3, 2)]
)
def test_limits_are_any_positive_numbers(limit):
    found = vars(pg.estimator("vtrace", rho_bar=limit, c_bar=limit))
    assert found["rho_bar"] == found["c_bar"] == float(limit)
    assert type(found["rho_bar"]) is float


@pytest.mark.parametrize("limit", [0, -1.0, math.nan, True, "1", None, 1j])
def test_limits_that_are_none_are_refused(limit):
    for name in ("rho_bar", "c_bar"):
        with pytest.raises(
            EstimatorError, match=rf"VTrace\.{name}: expected a number above 0 or math\.inf"
        ):
            pg.estimator("vtrace", **{name: limit})


@pytest.mark.parametrize(
    ("rho_bar", "c_bar", "trace_lambda"), [(1.0, 1.0, 1.0), (1.5, 0.8, 0.9), (math.inf, 2.0, 0.5)]
)
def test_vtrace_is_its_definition(steps, rho_bar, c_bar, trace_lambda):
    r_t, v_t, v_tp1, log_ratio_t = steps
    target, advantage = vtrace(
        r_t,
        v_t,
        v_tp1,
        log_ratio_t,
        LENGTHS,
        GAMMA,
        rho_bar=rho_bar,
        c_bar=c_bar,
        trace_lambda=trace_lambda,
    )
    ratio = np.exp(log_ratio_t)
    for own in episodes():
        for s in own:
            total = v_t[s]
            for t in range(s, own.stop):
                traces = math.prod(trace_lambda * min(c_bar, ratio[i]) for i in range(s, t))
                delta = min(rho_bar, ratio[t]) * (r_t[t] + GAMMA * v_tp1[t] - v_t[t])
                total += GAMMA ** (t - s) * traces * delta
            assert target[s] == pytest.approx(total, rel=1e-13)
            following = target[s + 1] if s + 1 in own else v_tp1[s]
            wanted = min(rho_bar, ratio[s]) * (r_t[s] + GAMMA * following - v_t[s])
            assert advantage[s] == pytest.approx(wanted, rel=1e-13)


def test_vtrace_on_the_current_policys_episodes_is_gae_with_lambda_1(steps):
    r_t, v_t, v_tp1, _ = steps
    target, advantage = vtrace(r_t, v_t, v_tp1, np.zeros(8), LENGTHS, GAMMA)
    expected = gae(r_t, v_t, v_tp1, LENGTHS, GAMMA, 1.0)
    np.testing.assert_allclose(target, expected + v_t, rtol=1e-13)
    np.testing.assert_allclose(advantage, expected, rtol=1e-12)


def test_retrace_is_its_definition(steps):
    r_t, q_t, v_tp1, log_ratio_t = steps
    found = retrace(r_t, q_t, v_tp1, log_ratio_t, LENGTHS, GAMMA, 0.8)
    for own in episodes():
        for s in own:
            total = q_t[s]
            for t in range(s, own.stop):
                traces = math.prod(
                    0.8 * min(1.0, math.exp(log_ratio_t[i])) for i in range(s + 1, t + 1)
                )
                total += GAMMA ** (t - s) * traces * (r_t[t] + GAMMA * v_tp1[t] - q_t[t])
            assert found[s] == pytest.approx(total, rel=1e-13)


def test_retrace_with_lambda_0_is_one_step(steps):
    r_t, q_t, v_tp1, log_ratio_t = steps
    found = retrace(r_t, q_t, v_tp1, log_ratio_t, LENGTHS, GAMMA, 0.0)
    np.testing.assert_allclose(found, r_t + GAMMA * v_tp1, rtol=1e-13)


@pytest.mark.parametrize("function", [vtrace, retrace])
@pytest.mark.parametrize("short", [1, 2, 3])
def test_lengths_must_agree(steps, function, short):
    given = list(steps)
    given[short] = given[short][:-1]
    with pytest.raises(
        ShapeError, match=f"{function.__name__}: expected arrays of one length, got 8 and 7"
    ):
        function(*given, LENGTHS, GAMMA)
