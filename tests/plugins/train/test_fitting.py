"""One line about each estimator, environment and setting that do not fit, in the names that the user gave."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete

from pgcore.errors import EstimatorError, PgcoreError, SpecError
from pgcore.registry.registry import registry

ESTIMATORS = sorted(entry.provider.name for entry in registry().providers("estimators"))


class Pair(gymnasium.Env):
    """Has two choices at once."""

    observation_space, action_space = Box(-1.0, 1.0, (2,)), MultiDiscrete([2, 3])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}


@pytest.mark.parametrize("estimator", ["q_learning", "soft_actor", "expected", "dppo_kl"])
def test_continuous_actions_are_refused_by_estimators_of_discrete_ones(new_training, estimator):
    with pytest.raises(
        EstimatorError,
        match=rf"^{estimator} needs discrete actions, one Discrete space: Pendulum-v1 has Box\(-2.0, 2.0",
    ):
        new_training("Pendulum-v1", estimator={"name": estimator})


def test_several_choices_are_refused_by_estimators_of_one(new_training, register):
    with pytest.raises(EstimatorError, match=r"q_learning needs discrete .* has MultiDiscrete\("):
        new_training(register(Pair), estimator={"name": "q_learning"})


@pytest.mark.parametrize(
    ("name", "sections", "message"),
    [
        (
            "CartPole-v1",
            {"head": {"name": "epsilon_greedy"}},
            "^head.name: expected a head with probabilities that can be learned for ppo, got 'epsilon_greedy'",
        ),
        (
            "CartPole-v1",
            {"network": {"critic": "none"}},
            "^network.critic: expected 'separate' or 'shared' for ppo, which learns values, got 'none'",
        ),
        (
            "Pendulum-v1",
            {
                "head": {"name": "squashed_gaussian"},
                "estimator": {"name": "ppo", "entropy_coefficient": 0.01},
            },
            "^head.name: expected a head with entropy for ppo, .*; set estimator.entropy_coefficient=0",
        ),
    ],
)
def test_settings_that_do_not_fit_are_told_as_they_were_given(
    new_training, name, sections, message
):
    with pytest.raises(SpecError, match=message):
        new_training(name, **sections)


@pytest.mark.parametrize("environment", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1", "pair"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_estimator_fits_or_says_why_in_the_users_words(
    new_training, register, estimator, environment
):
    name = register(Pair) if environment == "pair" else environment
    try:
        training = new_training(name, estimator={"name": estimator}, run={"steps": 64})
    except PgcoreError as error:
        text = str(error)
        # The estimator by the name that was typed, on one line, without a class's own notation.
        assert estimator in text
        assert "\n" not in text
        assert "on Diagonal" not in text
        assert "PolicySpec" not in text
    else:
        discrete = isinstance(training.environments.actions, Discrete)
        assert discrete or not training.estimator.claims.discrete_only
