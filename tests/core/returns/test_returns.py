import subprocess
import sys

import numpy as np
import pytest

from pgcore.errors import BatchError, ShapeError
from pgcore.returns import (
    centre,
    discounted_sum,
    discounts,
    episode_returns,
    gae,
    leave_one_out_mean,
    n_step_returns,
    next_values,
    normalise,
    optimal_baseline,
    returns,
    td_errors,
)
from pgcore.returns.discounted import SOLVER_FROM

RNG = np.random.default_rng(8)
LENGTHS = np.array([3, 1, 5, 2])
STEPS = int(LENGTHS.sum())
REWARDS, VALUES = RNG.standard_normal(STEPS), RNG.standard_normal(STEPS)
FINAL = np.array([0.0, 0.7, 0.0, -1.3])  # the second and the fourth episode were cut
GAMMA = 0.9


@pytest.fixture
def rng():
    """Random numbers of the test's own."""
    return np.random.default_rng(9)


def parts(array):
    """Return the episodes' own rows, in extended precision."""
    return [part.astype(np.longdouble) for part in np.split(array, LENGTHS.cumsum()[:-1])]


def test_returns_by_hand():
    r, lengths = np.array([1.0, 2.0, 4.0, 8.0, 16.0]), np.array([3, 2])
    assert returns(r, lengths, 0.5).tolist() == [3.0, 4.0, 4.0, 16.0, 16.0]
    assert returns(r, lengths, 0.5, np.array([8.0, 0.0])).tolist() == [4.0, 6.0, 8.0, 16.0, 16.0]
    assert returns(r, lengths, 0.0).tolist() == r.tolist()
    assert returns(r, lengths, 1.0).tolist() == [7.0, 6.0, 4.0, 24.0, 16.0]
    assert r.tolist() == [1.0, 2.0, 4.0, 8.0, 16.0], "the caller's rewards are left as they were"


def test_returns_are_the_sums_that_define_them():
    expected = [
        sum((GAMMA**k * r[t + k] for k in range(len(r) - t)), GAMMA ** (len(r) - t) * final)
        for r, final in zip(parts(REWARDS), FINAL, strict=True)
        for t in range(len(r))
    ]
    np.testing.assert_allclose(
        returns(REWARDS, LENGTHS, GAMMA, FINAL), np.array(expected, np.float64), rtol=1e-14
    )


def test_the_return_of_an_episode_is_that_of_its_first_step():
    g_t = returns(REWARDS, LENGTHS, GAMMA)
    np.testing.assert_array_equal(episode_returns(g_t, LENGTHS), g_t[[0, 3, 4, 9]])


def test_discounts_end_with_every_episode():
    assert discounts(np.array([3, 1, 2]), 0.5).tolist() == [0.5, 0.5, 0.0, 0.0, 0.5, 0.0]


def test_next_values_end_with_the_final_ones():
    v_tp1 = next_values(np.arange(6.0), np.array([2, 1, 3]), np.array([10.0, 20.0, 30.0]))
    assert v_tp1.tolist() == [1.0, 10.0, 20.0, 4.0, 5.0, 30.0]


def test_td_errors_by_hand():
    r_t, v_t, v_tp1 = np.array([1.0, 2.0]), np.array([3.0, 5.0]), np.array([5.0, 0.0])
    assert td_errors(r_t, v_t, v_tp1, 0.5).tolist() == [0.5, -3.0]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 100])
def test_n_step_returns_are_the_sums_that_define_them(n):
    expected = []
    for r, v, final in zip(parts(REWARDS), parts(VALUES), FINAL, strict=True):
        bootstrap = np.append(v, final)
        for t in range(len(r)):
            m = min(n, len(r) - t)
            expected.append(
                sum((GAMMA**k * r[t + k] for k in range(m)), GAMMA**m * bootstrap[t + m])
            )
    v_tp1 = next_values(VALUES, LENGTHS, FINAL)
    found = n_step_returns(REWARDS, VALUES, v_tp1, LENGTHS, GAMMA, n)
    np.testing.assert_allclose(found, np.array(expected, np.float64), rtol=1e-13)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.3, 0.95, 1.0])
def test_gae_is_the_sum_that_defines_it(gae_lambda):
    expected = []
    for r, v, final in zip(parts(REWARDS), parts(VALUES), FINAL, strict=True):
        delta = r + GAMMA * np.append(v[1:], final) - v
        expected += [
            sum((GAMMA * gae_lambda) ** k * delta[t + k] for k in range(len(r) - t))
            for t in range(len(r))
        ]
    v_tp1 = next_values(VALUES, LENGTHS, FINAL)
    found = gae(REWARDS, VALUES, v_tp1, LENGTHS, GAMMA, gae_lambda)
    np.testing.assert_allclose(found, np.array(expected, np.float64), rtol=1e-13)


@pytest.mark.parametrize("steps", [SOLVER_FROM - 1, SOLVER_FROM, 3000])
def test_the_solver_and_the_loop_agree(rng, steps):
    x_t = rng.standard_normal(steps)
    c_t = np.where(rng.random(steps) < 0.02, 0.0, rng.random(steps))
    before = x_t.copy()
    by_loop = discounted_sum(x_t.astype(object), c_t).astype(np.float64)
    np.testing.assert_allclose(discounted_sum(x_t, c_t), by_loop, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(x_t, before)


@pytest.mark.parametrize("steps", [1, 2, SOLVER_FROM])
def test_the_last_coefficient_is_not_read(steps):
    c_t = np.full(steps, 0.5)
    c_t[-1] = np.nan
    assert np.isfinite(discounted_sum(np.ones(steps), c_t)).all()


def test_a_short_batch_does_not_import_scipy():
    program = (
        "import sys, numpy as np; from pgcore.returns import *; returns(np.ones(2047), np.array([2047]), 0.9);"
        "print('scipy' in sys.modules);"
        "returns(np.ones(2048), np.array([2048]), 0.9); print('scipy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("ddof", [0, 1, 2])
def test_normalising_subtracts_the_mean_and_divides_by_the_std(rng, ddof):
    x = rng.standard_normal(50) * 3.0 + 100.0
    np.testing.assert_allclose(
        normalise(x, ddof=ddof), (x - x.mean()) / (x.std(ddof=ddof) + 1e-8), rtol=1e-10, atol=1e-12
    )


def test_the_epsilon_of_normalising_is_outside_the_root():
    x = np.array([-1e-8, 1e-8])
    assert normalise(x, ddof=0).tolist() == pytest.approx([-0.5, 0.5], rel=1e-12)
    assert normalise(x, ddof=0, eps=3e-8).tolist() == pytest.approx([-0.25, 0.25], rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1.1, -123456.789, 1e9 / 3])
@pytest.mark.parametrize("size", [2, 3, 7, 1000])
def test_a_constant_vector_normalises_to_exactly_zero(dtype, value, size):
    x = np.full(size, value, dtype)
    assert normalise(x).tolist() == [0.0] * size
    assert normalise(x).dtype == dtype
    assert normalise(x, np.ones(size)).dtype == dtype


@pytest.mark.parametrize(("size", "ddof"), [(1, 0), (1, 1), (2, 2), (3, 5)])
def test_too_few_entries_for_a_std_stay_as_they_are(size, ddof):
    x = np.arange(1.0, 1.0 + size)
    assert normalise(x, ddof=ddof).tolist() == x.tolist()
    assert normalise(np.append(x, 9.0), np.append(np.ones(size), 0.0), ddof=ddof).tolist() == [
        *x.tolist(),
        0.0,
    ]


def test_padding_stays_out_of_normalising():
    x, weights = np.array([1.0, 1e6, 2.0, 6.0, -1e6]), np.array([0.25, 0.0, 0.25, 0.25, 0.0])
    found = normalise(x, weights)
    np.testing.assert_array_equal(found[weights > 0], normalise(x[weights > 0]))
    assert found[weights == 0].tolist() == [0.0, 0.0]


def test_normalising_padding_alone_gives_zeros():
    assert normalise(np.array([3.0, 4.0]), np.zeros(2)).tolist() == [0.0, 0.0]


def test_leaving_one_out_averages_the_others(rng):
    x = rng.standard_normal(6)
    np.testing.assert_allclose(
        leave_one_out_mean(x), [np.delete(x, i).mean() for i in range(6)], rtol=1e-13, atol=1e-15
    )


def test_the_own_mean_shrinks_by_one_minus_one_over_n_and_leave_one_out_does_not(rng):
    for n in (2, 4, 16, 64):
        x = rng.standard_normal(n)
        own = x - x.mean()
        np.testing.assert_allclose(
            own, (1 - 1 / n) * (x - leave_one_out_mean(x)), rtol=1e-11, atol=1e-14
        )


@pytest.mark.parametrize("per_component", [True, False])
def test_the_optimal_baseline_is_a_ratio_over_the_other_episodes(rng, per_component):
    g, u = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    expected = []
    for e in range(5):
        others = [i for i in range(5) if i != e]
        above, below = (
            np.sum([u[i] * g[i] for i in others], axis=0),
            np.sum([g[i] ** 2 for i in others], axis=0),
        )
        expected.append(above / below if per_component else [above.sum() / below.sum()])
    np.testing.assert_allclose(
        optimal_baseline(g, u, per_component=per_component), expected, rtol=1e-12
    )


def test_the_optimal_baseline_of_equal_returns_is_that_return(rng):
    g = rng.standard_normal((4, 3))
    for per_component in (True, False):
        np.testing.assert_allclose(
            optimal_baseline(g, 2.5 * g, per_component=per_component), 2.5, rtol=1e-12
        )


def test_the_optimal_baseline_is_zero_where_the_others_have_no_score():
    g = np.array([[0.0, 1.0], [0.0, 0.0], [3.0, 0.0]])
    found = optimal_baseline(g, 7.0 * g, per_component=True)
    np.testing.assert_array_equal(found, [[7.0, 0.0], [7.0, 7.0], [0.0, 7.0]])
    assert optimal_baseline(g[:2] * 0, g[:2], per_component=False).tolist() == [[0.0], [0.0]]


def test_leaving_one_out_does_not_cancel():
    """Taking the own square from a total of 1e20 would leave nothing of the others' 1."""
    g = np.array([[1.0], [1e10], [1.0]])
    assert optimal_baseline(g, 3.0 * g, per_component=True)[1, 0] == 3.0


def test_the_mean_of_the_others_does_not_cancel():
    assert leave_one_out_mean(np.array([1.0, 1e20, 2.0]))[1] == 1.5


def test_normalising_large_float32_numbers_does_not_overflow():
    x = np.array([2e25, -1e25, 3e25], np.float32)
    np.testing.assert_allclose(normalise(x), normalise(x.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("steps", [6, SOLVER_FROM + 6])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_an_infinity_stays_in_its_episode(steps, bad):
    x = np.ones(steps)
    x[-2] = bad
    found = returns(x, np.array([steps - 3, 3]), 0.5)
    np.testing.assert_array_equal(found[:-3], returns(x[:-3], np.array([steps - 3]), 0.5))
    np.testing.assert_array_equal(np.isfinite(found[-3:]), [False, False, True])


ONE = np.ones(1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: discounted_sum(ONE, np.ones(2)),
            "discounted_sum: expected arrays of one length, got 1 and 2",
        ),
        (
            lambda: returns(REWARDS, LENGTHS[:2], 1.0),
            "returns: expected lengths that sum to 11, .* got 4; check both",
        ),
        (
            lambda: returns(REWARDS, LENGTHS, 1.0, ONE),
            "returns: expected arrays of one length, got 1 and 4",
        ),
        (
            lambda: next_values(VALUES, LENGTHS[:2], FINAL),
            "next_values: expected lengths that sum to 11",
        ),
        (
            lambda: next_values(VALUES, LENGTHS, ONE),
            "next_values: expected arrays of one length, got 1 and 4",
        ),
        (
            lambda: n_step_returns(REWARDS, VALUES, VALUES, ONE, 1.0, 1),
            "n_step_returns: expected lengths that sum to 11",
        ),
        (
            lambda: n_step_returns(REWARDS, ONE, VALUES, LENGTHS, 1.0, 1),
            "n_step_returns: .* got 11 and 1",
        ),
        (
            lambda: n_step_returns(REWARDS, VALUES, ONE, LENGTHS, 1.0, 1),
            "n_step_returns: .* got 11 and 1",
        ),
        (
            lambda: gae(REWARDS, VALUES, VALUES, LENGTHS[1:], 1.0, 1.0),
            "gae: expected lengths that sum to 11, .* got 8",
        ),
        (
            lambda: gae(REWARDS, ONE, VALUES, LENGTHS, 1.0, 1.0),
            "gae: expected arrays of one length, got 11 and 1",
        ),
        (
            lambda: gae(REWARDS, VALUES, ONE, LENGTHS, 1.0, 1.0),
            "gae: expected arrays of one length, got 11 and 1",
        ),
    ],
)
def test_lengths_that_disagree_are_refused(call, words):
    with pytest.raises(ShapeError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "where"),
    [
        (lambda: leave_one_out_mean(ONE), "leave_one_out_mean"),
        (
            lambda: optimal_baseline(np.ones((1, 2)), np.ones((1, 2)), per_component=True),
            "optimal_baseline",
        ),
    ],
)
def test_one_episode_leaves_nothing_when_left_out(call, where):
    with pytest.raises(
        BatchError,
        match=f"{where}: expected at least 2 episodes to leave one out, got 1; collect more",
    ):
        call()


def test_whole_numbers_are_centred_and_normalised_too():
    np.testing.assert_allclose(centre(np.array([1, 2, 6])), [-2.0, -1.0, 3.0])
    np.testing.assert_allclose(normalise(np.array([1, 2, 6])), normalise(np.array([1.0, 2.0, 6.0])))
    assert not centre(np.full(3, 0.1)).any()
