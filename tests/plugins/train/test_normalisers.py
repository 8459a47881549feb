import numpy as np
import pytest

from pgcore_train.rollout.normalisers import ObservationNormaliser, RewardNormaliser, RunningMoments


@pytest.mark.parametrize("sizes", [(40,), (1, 39), (13, 1, 26), (1,) * 40])
def test_moments_are_those_of_everything_seen(sizes):
    rows = 1e4 + np.random.default_rng(0).normal(size=(40, 3)) * [0.1, 1.0, 10.0]
    moments = RunningMoments(3)
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        moments.update(part)
    assert moments.count == 40
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance, rows.var(axis=0), rtol=1e-9)


def test_moments_go_on_from_their_state():
    rows = np.random.default_rng(1).normal(size=(30, 2))
    whole, first, second = RunningMoments(2), RunningMoments(2), RunningMoments(2)
    whole.update(rows[:10])
    first.update(rows[:10])
    second.load(first.state())
    first.update(rows[10:] + 5.0)  # What was loaded must not follow what it was loaded from.
    for moments in (whole, second):
        moments.update(rows[10:])
    np.testing.assert_array_equal(second.mean, whole.mean)
    np.testing.assert_array_equal(second.squares, whole.squares)


def test_observations_come_out_with_mean_zero_and_deviation_one():
    rows = np.random.default_rng(2).normal(3.0, 5.0, size=(500, 2))
    normaliser = ObservationNormaliser(2)
    np.testing.assert_allclose(normaliser(rows[:4] / 10), rows[:4] / 10)
    normaliser.update(rows)
    seen = normaliser(rows)
    np.testing.assert_allclose(seen.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(seen.std(axis=0), 1.0, rtol=1e-8)
    assert normaliser(np.array([[1e9, -1e9]])).tolist() == [[10.0, -10.0]]


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
    fresh.moments.load(normaliser.moments.state())
    np.testing.assert_array_equal(normaliser(rewards, ended), fresh(rewards, ended))
