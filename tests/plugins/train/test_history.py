import numpy as np
import pytest

from pgcore_train.rollout.rollouts import Rollout
from pgcore_train.run.history import History, readable, window_means


def test_rollouts_add_up():
    history = History(steps=100)
    history.add(Rollout({}, 50, np.array([1.0, 2.0]), np.array([10, 40])))
    history.add(Rollout({}, 30, np.array([3.0]), np.array([30])))
    assert (history.steps, history.returns, history.finished_at) == (
        180,
        [1.0, 2.0, 3.0],
        [110, 140, 180],
    )
    assert history.mean_return == 2.0


def test_the_mean_is_of_the_last_twenty():
    assert History().mean_return is None
    assert History(returns=[1000.0] * 5 + [1.0] * 10 + [2.0] * 10).mean_return == 1.5


@pytest.mark.parametrize(
    ("returns", "goal", "reached"),
    [
        ([5.0] * 19, 5, False),
        ([5.0] * 20, 5, True),
        ([5.0] * 20, 5.01, False),
        ([5.0] * 20, None, False),
    ],
)
def test_a_goal_is_reached_by_twenty_episodes(returns, goal, reached):
    assert History(returns=returns).reached(goal) is reached


def test_window_means():
    returns = np.arange(25.0)
    np.testing.assert_allclose(window_means(returns), [9.5, 10.5, 11.5, 12.5, 13.5, 14.5])
    np.testing.assert_allclose(window_means(returns[:3]), [1.0])


@pytest.mark.parametrize(
    ("value", "text"), [(475.25, "475.2"), (-1234.56, "-1,234.6"), (0.8125, "0.812"), (0.0, "0")]
)
def test_returns_are_readable(value, text):
    assert readable(value) == text
