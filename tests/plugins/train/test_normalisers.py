import numpy as np
import pytest

from pgcore_train.rollout.normalisers import Normaliser, ObservationNormaliser, RewardNormaliser


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sizes", [(40,), (1, 39), (13, 1, 26), (1,) * 40])
def test_moments_are_those_of_everything_seen(sizes, dtype):
    rows = 1e4 + np.random.default_rng(0).normal(size=(40, 3)) * [0.1, 1.0, 10.0]
    rows = rows.astype(dtype)
    normaliser = Normaliser(3)
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        normaliser.take(part)
    exact = rows.astype(np.float64)
    assert normaliser.moments.count == 40
    assert normaliser.moments.var.dtype == np.float64
    np.testing.assert_allclose(normaliser.moments.mean, exact.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(normaliser.moments.var, exact.var(axis=0), rtol=1e-9)


def test_moments_go_on_from_their_state():
    rows = np.random.default_rng(1).normal(size=(30, 2))
    whole, first, second = Normaliser(2), Normaliser(2), Normaliser(2)
    whole.take(rows[:10])
    first.take(rows[:10])
    second.load(first.state())
    first.take(rows[10:] + 5.0)  # What was loaded must not follow what it was loaded from.
    for normaliser in (whole, second):
        normaliser.take(rows[10:])
    np.testing.assert_array_equal(second.moments.mean, whole.moments.mean)
    np.testing.assert_array_equal(second.moments.var, whole.moments.var)


def test_a_state_of_sums_of_squares_alone_loads():
    rows = np.random.default_rng(2).normal(3.0, 5.0, size=(20, 2))
    normaliser = ObservationNormaliser(2)
    squares = ((rows - rows.mean(axis=0)) ** 2).sum(axis=0)
    normaliser.load({"count": np.array([20]), "mean": rows.mean(axis=0), "squares": squares})
    np.testing.assert_allclose(normaliser.moments.var, rows.var(axis=0), rtol=1e-14)
    np.testing.assert_allclose(normaliser(rows).std(axis=0), 1.0, rtol=1e-8)
    empty = {"count": np.array([0]), "mean": np.zeros(2), "squares": np.zeros(2)}
    normaliser.load(empty)
    np.testing.assert_allclose(normaliser(rows / 9), rows / 9)


def test_observations_come_out_with_mean_zero_and_deviation_one():
    rows = np.random.default_rng(2).normal(3.0, 5.0, size=(500, 2))
    normaliser = ObservationNormaliser(2)
    np.testing.assert_allclose(normaliser(rows[:4] / 10), rows[:4] / 10)
    normaliser.update(rows)
    seen = normaliser(rows)
    np.testing.assert_allclose(seen.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(seen.std(axis=0), 1.0, rtol=1e-8)
    assert normaliser(np.array([[1e9, -1e9]])).tolist() == [[10.0, -10.0]]


@pytest.mark.parametrize("odd", [np.inf, -np.inf, np.nan])
def test_an_observation_that_is_not_finite_stays_so_and_leaves_no_mark(odd):
    normaliser = ObservationNormaliser(2)
    normaliser.update(np.arange(10.0).reshape(5, 2))
    before = normaliser.state()
    seen = normaliser(np.array([[odd, 5.0], [4.0, odd]]))
    np.testing.assert_array_equal(seen, [[odd, 0.0], [0.0, odd]])
    normaliser.update(np.array([[1.0, odd], [2.0, 3.0]]))
    for name, value in normaliser.state().items():
        np.testing.assert_array_equal(value, before[name])


def test_an_observation_that_never_changes_stays_finite():
    normaliser = ObservationNormaliser(1)
    normaliser.update(np.full((8, 1), 4.0))
    assert normaliser(np.array([[4.0]])).tolist() == [[0.0]]


def test_rewards_are_divided_by_the_deviation_of_the_discounted_sum():
    rng = np.random.default_rng(3)
    rewards, ended = rng.normal(2.0, 1.0, size=(2, 3, 20)), rng.random((2, 3, 20)) < 0.2
    normaliser = RewardNormaliser(3, 0.9)
    sums, carried = [], [0.0] * 3
    for part in range(2):
        for environment in range(3):
            for t in range(20):
                carried[environment] = 0.9 * carried[environment] + rewards[part, environment, t]
                sums.append(carried[environment])
                carried[environment] *= not ended[part, environment, t]
        np.testing.assert_allclose(
            normaliser(rewards[part], ended[part]), rewards[part] / np.std(sums), rtol=1e-6
        )


def test_broken_off_episodes_leave_nothing_in_the_next_sum():
    rewards, ended = np.ones((1, 4)), np.zeros((1, 4), bool)
    normaliser, fresh = RewardNormaliser(1, 1.0), RewardNormaliser(1, 1.0)
    normaliser(rewards, ended)
    normaliser.restart()
    fresh.load(normaliser.state())
    np.testing.assert_array_equal(normaliser(rewards, ended), fresh(rewards, ended))
