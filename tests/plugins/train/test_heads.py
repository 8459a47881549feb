"""The head that an environment's actions ask for, and that each one learns."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

import pgcore as pg
from pgcore.errors import SpecError, UnknownNameError


class Matching(gymnasium.Env):
    """Pays 1 for each part of an action that is what the state asks for; ten steps an episode."""

    observation_space = Discrete(2)
    wanted = np.array([[2, 0], [0, 1]])

    def __init__(self, actions) -> None:
        self.action_space = actions

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.state = 10, int(self.np_random.integers(2))
        return self.state, {}

    def step(self, action):
        assert self.action_space.contains(action)
        reward = self.paid(np.asarray(action))
        self.left -= 1
        self.state = int(self.np_random.integers(2))
        return self.state, reward, self.left == 0, False, {}

    def paid(self, action):
        return float((action == self.wanted[self.state]).mean())


class Switching(Matching):
    wanted = np.array([[1, 0], [0, 1]])


class Steering(Matching):
    """Pays for real actions that are near to three quarters of what the bounds allow, up or down."""

    def paid(self, action):
        return float(1.0 - np.abs(action - np.array([1.5, -1.5])[self.state]).mean() / 4.0)


SPACES = {
    "multi_categorical": (Matching, MultiDiscrete([3, 2])),
    "bernoulli": (Switching, MultiBinary(2)),
    "squashed_gaussian": (Steering, Box(-2.0, 2.0, (1,))),
}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("estimator", ["ppo", "trpo"])
def test_each_head_learns(new_training, register, name, estimator):
    cls, space = SPACES[name]
    head = {"head": {"name": name}} if name == "squashed_gaussian" else {}
    training = new_training(
        register(cls, kwargs={"actions": space}),
        estimator={"name": estimator, "gamma": 0.0},
        run={"steps": 20_000},
        rollout={"envs": 4, "length": 100},
        **head,
        **({"optimizer": {"learning_rate": 0.03}} if estimator == "ppo" else {}),
    )
    returns = []
    returns: list[float] = []
    training.run(lambda metrics: returns.append(metrics["mean_return"]))
    assert training.policy.spec.head.name == name
    assert training.evaluate().mean() > 9.0, returns


def test_an_environment_has_its_usual_head_and_another_where_asked(new_training):
    assert isinstance(new_training("Pendulum-v1").policy.spec.head, pg.DiagonalGaussian)
    asked = new_training(
        "Pendulum-v1", head={"name": "squashed_gaussian", "std": 0.5}
    ).policy.spec.head
    assert asked == pg.SquashedGaussian(1, std=0.5)
    greedy = new_training(
        "CartPole-v1", head={"name": "epsilon_greedy"}, estimator={"name": "q_learning"}
    )
    assert isinstance(greedy.policy.spec.head, pg.EpsilonGreedy)


@pytest.mark.parametrize(
    ("environment", "head", "error", "words"),
    [
        (
            "CartPole-v1",
            "diagonal_gaussian",
            SpecError,
            r"head\.name: expected a head for actions Discrete\(2\), such as",
        ),
        (
            "Pendulum-v1",
            "bernoulli",
            SpecError,
            r"such as 'diagonal_gaussian', got 'bernoulli'; leave it out",
        ),
        ("Pendulum-v1", "squashed", UnknownNameError, "did you mean 'squashed_gaussian'"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(new_training, environment, head, error, words):
    with pytest.raises(error, match=words):
        new_training(environment, head={"name": head})


def test_a_squashed_head_needs_bounds(new_training, register):
    name = register(Steering, kwargs={"actions": Box(-np.inf, np.inf, (1,))})
    with pytest.raises(SpecError, match="finite action bounds for 'squashed_gaussian'"):
        new_training(name, head={"name": "squashed_gaussian"})
