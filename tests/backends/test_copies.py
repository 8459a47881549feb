"""Copies of adopted networks and of compiled policies; of every backend's own policies: `pgcore_check.suite.test_copies`."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import SpecError
from pgcore_check.suite.test_copies import (
    COPIERS,
    ESTIMATOR,
    SPEC,
    bits,
    contents,
    go_on,
    make_batch,
)


@pytest.mark.parametrize("copier", COPIERS)
def test_what_torch_has_compiled_is_left_out(copier):
    pytest.importorskip("torch")
    policy: Any = pg.policy(SPEC, backend="torch", compiled=True)
    policy._functions(ESTIMATOR)[8] = lambda *arguments: (
        arguments
    )  # in place of a compiled function, which takes its time
    copied = COPIERS[copier](policy)
    assert copied.compiled
    assert copied._functions(ESTIMATOR) == {}


def module_of_two():
    """Return a torch network and a critic that share their first layer, with a head of four outputs."""
    nn = pytest.importorskip("torch").nn
    shared = nn.Linear(3, 5, dtype=pytest.importorskip("torch").float64)
    layer = lambda width: nn.Linear(5, width, dtype=shared.weight.dtype)  # noqa: E731
    return nn.Sequential(shared, nn.Tanh(), layer(2)), nn.Sequential(shared, nn.Tanh(), layer(1))


def torch_policy():
    network, critic = module_of_two()
    return pg.backend("torch").adopt(network, pg.DiagonalGaussian(2), critic)


def keras_model(name, width):
    keras = pytest.importorskip("keras")
    dense = keras.layers.Dense
    layers = [
        keras.layers.Input((3,), dtype="float64"),
        dense(5, "tanh", dtype="float64"),
        dense(width, dtype="float64"),
    ]
    return keras.Sequential(layers, name=name)


def keras_policy():
    pytest.importorskip("tensorflow")
    return pg.backend("tensorflow").adopt(
        keras_model("actor", 2), pg.DiagonalGaussian(2), keras_model("critic", 1)
    )


def affine(tree, observations):
    return observations @ tree["w"] + tree["b"]


def tree_of(width):
    rng = np.random.default_rng(width)
    return {"w": rng.standard_normal((3, width)), "b": np.zeros(width)}


def jax_policy(apply=affine):
    pytest.importorskip("jax")
    return pg.backend("jax").adopt(
        (apply, tree_of(2)), pg.DiagonalGaussian(2), (affine, tree_of(1))
    )


ADOPTED = {"torch": torch_policy, "tensorflow": keras_policy, "jax": jax_policy}


@pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning"
)  # Keras's, as it saves a model
@pytest.mark.parametrize("copier", COPIERS)
@pytest.mark.parametrize("framework", ADOPTED)
def test_an_adopted_network_is_copied_with_its_policy(framework, copier):
    policy, optimizer = ADOPTED[framework](), pg.optimizer("adam", learning_rate=0.1)
    optimizer.step(policy, pg.gradient(policy, ESTIMATOR, make_batch()))
    original = policy, optimizer, pg.gradient(policy, ESTIMATOR, make_batch())
    before = contents(*original)
    copied = COPIERS[copier](original)
    assert contents(*copied) == before
    after = go_on(*copied)
    assert contents(*original) == before
    assert go_on(*original) == after


def test_a_lambda_is_copied_and_cloud_pickled_but_not_pickled():
    policy = jax_policy(lambda tree, observations: observations @ tree["w"] + tree["b"])
    for copier in ("deepcopy", "cloudpickle"):
        assert bits(COPIERS[copier](policy).parameters()) == bits(policy.parameters())
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(policy)


def test_keras_models_that_share_a_variable_are_not_copied_apart():
    keras = pytest.importorskip("keras")
    pytest.importorskip("tensorflow")
    first = keras.layers.Input((3,))
    middle = keras.layers.Dense(4, "tanh", name="middle")(first)
    models = [keras.Model(first, keras.layers.Dense(width)(middle)) for width in (2, 1)]
    policy = pg.backend("tensorflow").adopt(models[0], pg.DiagonalGaussian(2), models[1])
    with pytest.raises(
        SpecError,
        match=r"expected models that share no variable, .* got middle/kernel in network and critic",
    ):
        copy.deepcopy(policy)
