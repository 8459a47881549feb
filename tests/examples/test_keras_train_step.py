"""A Keras model's `train_step`: the hand-written loss, and pgcore's in its place."""

from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras")
tf = pytest.importorskip("tensorflow")

SIZES = {"updates": 3, "steps": 32, "minibatch": 12}


@pytest.fixture
def steps(loop):
    """The file, in double precision."""
    before, policy = keras.config.floatx(), keras.config.dtype_policy().name
    keras.config.set_floatx("float64")
    # Once a layer was made anywhere, its dtype is that of a policy of its own.
    keras.config.set_dtype_policy("float64")
    yield loop("keras_train_step")
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(policy)


def parameters(agent):
    return np.concatenate([weight.numpy().ravel() for weight in agent.trainable_variables])


def agent_of(kind):
    keras.utils.set_random_seed(0)
    agent = kind()
    agent(np.zeros((1, 4)))
    return agent


def test_training_ends_at_the_same_parameters(steps, assert_swap):
    usual, ours = agent_of(steps.Usual), agent_of(steps.ByPgcore)
    before = parameters(usual)
    assert (before == parameters(ours)).all()
    # Three rollouts, of other signals each, and a smaller last minibatch in every epoch.
    assert steps.train(ours, **SIZES) == steps.train(usual, **SIZES)
    assert_swap(parameters(ours), parameters(usual))
    assert abs(parameters(usual) - before).max() > 1e-3
