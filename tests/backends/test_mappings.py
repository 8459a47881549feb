"""Observations by name through adopted networks, which take a dict: as one array of all of them would do."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, SpecError

STEPS, LENGTHS = 8, [5, 3]
HEAD = pg.Categorical(3)
PPO = pg.estimator("ppo", entropy_coefficient=0.02)


def torch_networks(kernels):
    torch = importlib.import_module("torch")

    class Network(torch.nn.Module):
        def __init__(self, names, kernel):
            super().__init__()
            self.names, self.kernel = names, torch.nn.Parameter(torch.tensor(kernel))

        def forward(self, observations):
            parts = [observations[name].to(self.kernel.dtype) for name in self.names]
            return torch.tanh(torch.cat(parts, 1)) @ self.kernel

    return [Network(names, kernel) for names, kernel in kernels], "kernel"


def jax_networks(kernels):
    jnp = importlib.import_module("jax.numpy")

    def network(names):
        def apply(parameters, observations):
            kernel = parameters["kernel"]
            parts = [observations[name].astype(kernel.dtype) for name in names]
            return jnp.tanh(jnp.concatenate(parts, 1)) @ kernel

        return apply

    return [(network(names), {"kernel": kernel}) for names, kernel in kernels], "kernel"


def tensorflow_networks(kernels):
    keras = importlib.import_module("keras")
    importlib.import_module("tensorflow")
    kinds = {"near": ((2,), "float64"), "count": ((1,), "int64"), "far": ((3,), "float64")}

    def network(names, kernel):
        given = {
            name: keras.Input(kinds[name][0], dtype=kinds[name][1], name=name) for name in kinds
        }
        parts = [keras.ops.cast(given[name], "float64") for name in names]
        joined = keras.ops.tanh(keras.ops.concatenate(parts, 1))
        layer = keras.layers.Dense(kernel.shape[1], use_bias=False, dtype="float64")
        model = keras.Model(given, layer(joined))
        model.set_weights([kernel])
        return model

    return [network(*pair) for pair in kernels], "kernel"


MAKERS = {"torch": torch_networks, "jax": jax_networks, "tensorflow": tensorflow_networks}


def arrays(rng, rows):
    return {
        "near": rng.normal(size=(rows, 2)),
        "count": rng.integers(0, 4, (rows, 1)),
        "far": rng.normal(size=(rows, 3)),
    }


def make_batch(observations, final):
    rng = np.random.default_rng(5)
    return pg.Batch(
        observations=observations,
        actions=rng.integers(0, 3, STEPS),
        rewards=rng.normal(size=STEPS),
        episode_lengths=LENGTHS,
        terminated=[True, False],
        final_observations=final,
    )


@pytest.fixture(
    params=[
        ("torch", False),
        ("torch", True),
        ("jax", True),
        ("tensorflow", False),
        ("tensorflow", True),
    ],
    ids=str,
)
def backend(request):
    """A backend and whether its policies are compiled."""
    name, compiled = request.param
    pytest.importorskip(name)
    return name, compiled


@pytest.fixture
def policies(backend):
    """A policy whose actor reads two arrays and its critic the third, and the NumPy backend's of the same weights."""
    name, compiled = backend
    rng = np.random.default_rng(3)
    actor, critic = rng.normal(size=(3, 3)), rng.normal(size=(3, 1))
    (network, value), _ = MAKERS[name]([(("near", "count"), actor), (("far",), critic)])
    adopted: Any = pg.backend(name).adopt(network, head=HEAD, critic=value, compiled=compiled)
    return adopted, actor, critic


def expected_gradient(actor, critic, batch):
    """Return the gradients by actor and critic, of linear policies of tanh of the observations."""
    spec = pg.PolicySpec(pg.Linear(6), HEAD, "separate")
    policy = pg.policy(spec, backend="numpy", dtype="float64")

    def one(observations):
        parts = [observations[name].astype(np.float64) for name in ("near", "count", "far")]
        return np.tanh(np.concatenate(parts, 1))

    whole = make_batch(one(batch.observations), one(batch.final_observations))
    weights = {name: np.zeros(shape) for name, shape in spec.parameter_shapes.items()}
    weights["network.0.weight"][:3], weights["critic.0.weight"][3:] = actor, critic
    policy.load(weights)
    found = pg.gradient(policy, PPO, whole)
    return found.metrics["loss"], [
        found.numpy()["network.0.weight"][:3],
        found.numpy()["critic.0.weight"][3:],
    ]


def test_actor_and_critic_read_their_own_arrays(policies):
    policy, actor, critic = policies
    rng = np.random.default_rng(4)
    batch = make_batch(arrays(rng, STEPS), arrays(rng, 2))
    loss, expected = expected_gradient(actor, critic, batch)
    for is_resident in (False, True):
        policy.resident = is_resident
        found = pg.gradient(policy, PPO, batch)
        assert found.metrics["loss"] == pytest.approx(loss, rel=1e-12)
        for array, wanted in zip(found.numpy().values(), expected, strict=True):
            np.testing.assert_allclose(array, wanted, rtol=1e-10, atol=1e-14)


def test_a_minibatch_of_signals_has_its_rows(policies):
    policy, *_ = policies
    rng = np.random.default_rng(4)
    batch = make_batch(arrays(rng, STEPS), arrays(rng, 2))
    signals = pg.signals(policy, PPO, batch)
    index = np.array([6, 1, 2])
    parts = []
    for is_resident in (False, True):
        policy.resident = is_resident
        found = pg.gradient(policy, PPO, batch.steps(index), signals=signals.steps(index))
        parts.append(np.concatenate([x.ravel() for x in found.numpy().values()]))
    np.testing.assert_allclose(*parts, rtol=1e-12, atol=1e-15)
    assert np.abs(parts[0]).max() > 0.01


def test_acting_and_fisher_products_take_a_dict(policies):
    policy, actor, _ = policies
    seen = arrays(np.random.default_rng(6), 5)
    actions, log_probs = policy.act(seen, pg.generator(2))
    inputs = np.tanh(np.concatenate([seen["near"], seen["count"].astype(float)], 1))
    logits = inputs @ actor
    expected = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(log_probs, expected[np.arange(5), actions], rtol=1e-12)
    np.testing.assert_array_equal(policy.mode(seen), logits.argmax(1))
    product = policy.fisher_vector_product(
        make_batch(arrays(np.random.default_rng(4), STEPS), arrays(np.random.default_rng(1), 2)),
        np.ones(policy.size),
    )
    assert np.abs(product).max() > 0


def test_a_missing_array_is_told(policies):
    policy, *_ = policies
    seen = arrays(np.random.default_rng(6), 5)
    del seen["near"]
    with pytest.raises(
        BatchError, match=r"takes observations \{.*'far': '\[B, 3\] (torch\.)?float64'"
    ):
        policy.act(seen, pg.generator(2))


def test_a_network_that_looks_at_other_steps_is_refused():
    torch = pytest.importorskip("torch")

    class Centred(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 3)

        def forward(self, observations):
            near = observations["near"]
            return self.layer(near - near.mean(0))

    policy = pg.backend("torch").adopt(Centred(), head=HEAD)
    seen = arrays(np.random.default_rng(6), 5)
    with pytest.raises(SpecError, match="depend on one observation alone"):
        policy.act(seen, pg.generator(0))
