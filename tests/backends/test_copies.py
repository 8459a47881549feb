"""Policies, optimizers and gradients pickle, cloud-pickle and deep-copy to the bit on every backend, and work afterwards."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import OptimizerError, SpecError
from pgcore.registry.registry import registry

cloudpickle = pytest.importorskip("cloudpickle")

COPIERS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}
REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
BACKENDS = [
    pytest.param(
        entry.provider.name,
        marks=[]
        if entry.status == "usable" or entry.provider.name in REQUIRED
        else pytest.mark.skip(f"{entry.provider.name}: {entry.reason}"),
    )
    for entry in registry().providers("backends")
]
USABLE = [
    entry.provider.name for entry in registry().providers("backends") if entry.status == "usable"
]

SPEC = pg.PolicySpec(pg.MLP(3, (4,), "tanh"), pg.DiagonalGaussian(2), "separate")
ESTIMATOR = pg.estimator("ppo")


def make_batch():
    """Return two episodes of 2 and 3 steps."""
    rng = np.random.default_rng(7)
    return pg.Batch(
        observations=rng.standard_normal((5, 3)),
        actions=rng.standard_normal((5, 2)),
        rewards=rng.standard_normal(5),
        log_probs=-rng.random(5),
        episode_lengths=[2, 3],
        terminated=[True, True],
    )


def trained(backend, dtype="float64"):
    """Return a policy, the optimizer that moved it once, and the next gradient; its caches are full."""
    policy = pg.policy(SPEC, backend=backend, dtype=dtype, seed=3)
    # A negative zero and a subnormal number, which careless copies lose.
    parameters = policy.parameters()
    parameters["network.0.bias"][:2] = -0.0, np.finfo(dtype).smallest_subnormal
    policy.load(parameters)
    optimizer = pg.optimizer("adam", learning_rate=0.1)
    optimizer.step(policy, pg.gradient(policy, ESTIMATOR, make_batch()))
    policy.evaluate(make_batch(), ("log_prob",))
    return policy, optimizer, pg.gradient(policy, ESTIMATOR, make_batch())


def bits(arrays):
    """Return arrays by name as dtype, shape and bytes."""
    return {name: (value.dtype.str, value.shape, value.tobytes()) for name, value in arrays.items()}


def contents(policy, optimizer, gradient):
    """Return all that a policy, its optimizer and a gradient hold, to the bit."""
    arrays = policy.parameters() | optimizer.state(policy)
    arrays |= {f"gradient of {name}": value for name, value in gradient.numpy().items()}
    arrays |= {f"given {name}": value for name, value in gradient.arguments().items()} | {
        "terms": gradient.terms()
    }
    return bits(arrays), gradient.metrics, optimizer.steps_taken


def go_on(policy, optimizer, gradient):
    """Step twice more, and return what comes out: parameters and actions."""
    optimizer.step(policy, gradient)
    optimizer.step(policy, pg.gradient(policy, ESTIMATOR, make_batch()).clipped(0.5))
    actions, log_probs = policy.act(make_batch().observations, pg.generator(0))
    return bits(policy.parameters() | {"actions": actions, "log_probs": log_probs})


@pytest.mark.parametrize(
    ("copier", "dtype"), [*((copier, "float64") for copier in COPIERS), ("pickle", "float32")]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_copy_is_the_same_to_the_bit_and_goes_on_alike(backend, copier, dtype):
    original = trained(backend, dtype)
    before = contents(*original)
    copied = COPIERS[copier](original)
    assert contents(*copied) == before
    assert copied[0].dtype == dtype
    after = go_on(*copied)
    # The original has not moved, and moves as the copy did.
    assert contents(*original) == before
    assert go_on(*original) == after


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_optimizer_stays_bound_to_the_policy_that_was_copied_with_it(backend):
    policy, optimizer, gradient = trained(backend)
    copied_policy, copied_optimizer, copied_gradient = copy.deepcopy((policy, optimizer, gradient))
    assert copied_gradient.policy is copied_policy
    for one, other in ((policy, copied_gradient), (copied_policy, gradient)):
        with pytest.raises(OptimizerError, match="expected"):
            copied_optimizer.step(one, other)
    copied_optimizer.step(copied_policy, copied_gradient)
    assert optimizer.steps_taken == 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_deep_copy_is_a_target_network(backend):
    spec = pg.PolicySpec(pg.MLP(3, (4,), "tanh"), pg.EpsilonGreedy(2))
    policy = pg.policy(spec, backend=backend, dtype="float64")
    batch = pg.Batch(
        observations=np.eye(3),
        actions=[0, 1, 0],
        rewards=[1.0, 0.0, 2.0],
        episode_lengths=[3],
        terminated=[False],
        final_observations=np.ones((1, 3)),
    )
    estimator = pg.estimator("q_learning")
    target = copy.deepcopy(policy)
    before = pg.signals(policy, estimator, batch, target=target).values
    pg.optimizer("sgd", learning_rate=0.5).step(
        policy, pg.gradient(policy, estimator, batch, target=target)
    )
    after = pg.signals(policy, estimator, batch, target=target).values
    moved = pg.signals(policy, estimator, batch).values
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    assert any(not np.array_equal(moved[name], value) for name, value in before.items())


def test_a_trust_region_is_copied_with_its_critics_optimizer():
    policy = pg.policy(SPEC, dtype="float64", seed=3)
    estimator, optimizer = pg.estimator("trpo"), pg.optimizer("trpo")
    optimizer.step(policy, pg.gradient(policy, estimator, make_batch()))
    copied_policy, copied_optimizer = pickle.loads(pickle.dumps((policy, optimizer)))
    for one, own in ((policy, optimizer), (copied_policy, copied_optimizer)):
        own.step(one, pg.gradient(one, estimator, make_batch()))
    assert bits(copied_policy.parameters()) == bits(policy.parameters())


READ = """
import pickle, sys, tests_of_copies as t
for name, text in pickle.load(sys.stdin.buffer).items():
    value = pickle.loads(text)
    sys.stdout.buffer.write(pickle.dumps((name, t.contents(*value), t.go_on(*value))))
"""


def test_a_new_process_reads_every_backends_pickle():
    originals = {name: trained(name) for name in USABLE}
    texts = pickle.dumps({name: pickle.dumps(value) for name, value in originals.items()})
    importing = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tests_of_copies", {__file__!r})
sys.modules["tests_of_copies"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
"""
    done = subprocess.run(
        [sys.executable, "-c", importing + READ], input=texts, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    rest = done.stdout
    for name, original in originals.items():
        found = pickle.loads(rest)
        rest = rest[len(pickle.dumps(found)) :]
        assert found == (name, contents(*original), go_on(*original))


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
