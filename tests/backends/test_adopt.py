"""Policies around the user's own networks, one set of weights in every framework: the same gradient, and the slope of the loss."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import os
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import ShapeError, SpecError
from pgcore.heads import Head
from pgcore_check.cases.cases import make_case
from pgcore_check.reference.differences import random_direction
from pgcore_check.results import gradient_row, loss_row

REQUIRED = os.environ.get("PGCORE_REQUIRE_BACKENDS", "").replace(",", " ").split()
EXAMPLES = Path(__file__).parents[2] / "examples"

STEPS, LENGTHS = 9, (4, 2, 3)
CATEGORICAL, GAUSSIAN = (
    pg.Categorical(3, temperature=0.8),
    pg.DiagonalGaussian(2, "shared", std=0.7),
)
SHAPES = {
    "convolution": {
        "kernel": (3, 3, 3, 4), "kernel bias": (4,), "policy": (36, 3), "policy bias": (3,), "value": (36, 1), "value bias": (1,),
    },
    "recurrence": {
        "kernel": (2, 12), "recurrent": (4, 12), "bias": (2, 12), "policy": (4, 3), "policy bias": (3,), "value": (10, 1), "value bias": (1,),
    },
    "residual": {
        "first": (5, 6), "first bias": (6,), "second": (6, 6), "second bias": (6,),
        "policy": (6, 2), "policy bias": (2,), "value": (6, 1), "value bias": (1,), "log_std": (2,),
    },
}  # fmt: skip
NETS = tuple(SHAPES)
REINFORCE = pg.estimator("reinforce", gamma=0.9)
HEADS = {"convolution": CATEGORICAL, "recurrence": CATEGORICAL, "residual": GAUSSIAN}


def same(array):
    return array


class Torch:
    """Each method returns network, critic, and by weight the way from the framework's shape to the one in `SHAPES`, in the policy's order.

    Weights are given by name; a recurrent kernel's gates are update, reset, candidate.
    """

    def __init__(self):
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(
            1
        )  # the networks are small, and threads that wait for a core take longer

    def mlp(self, spec, weights):
        torch = self.torch
        nn = torch.nn

        def linear(name):
            weight, bias = (
                torch.from_numpy(weights[f"{name}.{part}"].copy()) for part in ("weight", "bias")
            )
            layer = nn.Linear(*weight.shape, dtype=weight.dtype)
            layer.load_state_dict({"weight": weight.T, "bias": bias})
            return layer

        def network(prefix, layers):
            built = [linear(f"{prefix}.{number}") for number in layers]
            return nn.Sequential(
                *itertools.chain(*((layer, nn.Tanh()) for layer in built[:-1])), built[-1]
            )

        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                self.torso = nn.Sequential(
                    *itertools.chain(*((linear(f"network.{n}"), nn.Tanh()) for n in hidden))
                )
                self.policy = linear(f"network.{len(hidden)}")
                self.value = linear("critic.0")

            def forward(self, observations):
                features = self.torso(observations)
                return self.policy(features), self.value(features)

        hidden = range(len(spec.network.hidden))
        layers = range(len(hidden) + 1)
        ways = [
            np.transpose if len(shape) == 2 else same for shape in spec.parameter_shapes.values()
        ]
        if spec.critic == "shared":
            return Shared(), "shared", ways
        return (
            network("network", layers),
            None if spec.critic == "none" else network("critic", layers),
            ways,
        )

    def linear(self, weights, name):
        torch = self.torch
        layer = torch.nn.Linear(*weights[name].shape, dtype=torch.float64)
        layer.load_state_dict(
            {"weight": torch.tensor(weights[name].T), "bias": torch.tensor(weights[f"{name} bias"])}
        )
        return layer

    def convolution(self, weights):
        torch = self.torch
        linear = self.linear

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.kernel = torch.nn.Conv2d(3, 4, 3, stride=2, dtype=torch.float64)
                self.kernel.weight.data = torch.tensor(weights["kernel"].transpose(3, 2, 0, 1))
                self.kernel.bias.data = torch.tensor(weights["kernel bias"])
                self.policy, self.value = linear(weights, "policy"), linear(weights, "value")

            def forward(self, images):
                scaled = images.permute(0, 3, 1, 2).to(torch.float64) / 255
                features = torch.tanh(self.kernel(scaled)).flatten(1)
                return self.policy(features), self.value(features)

        # The features come channel by channel here, pixel by pixel elsewhere.
        pixels = np.arange(36).reshape(9, 4).T.reshape(-1)
        weights = weights | {name: weights[name][pixels] for name in ("policy", "value")}

        def by_pixel(weight):
            return weight.T[np.argsort(pixels)]

        return (
            Net(),
            "shared",
            [lambda kernel: kernel.transpose(2, 3, 1, 0), same, by_pixel, same, by_pixel, same],
        )

    def recurrence(self, weights):
        torch = self.torch
        linear = self.linear

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.cell = torch.nn.GRU(2, 4, batch_first=True, dtype=torch.float64)
                self.cell.load_state_dict(
                    {
                        "weight_ih_l0": torch.tensor(gates(weights["kernel"]).T),
                        "weight_hh_l0": torch.tensor(gates(weights["recurrent"]).T),
                        "bias_ih_l0": torch.tensor(gates(weights["bias"])[0]),
                        "bias_hh_l0": torch.tensor(gates(weights["bias"])[1]),
                    }
                )
                self.policy = linear(weights, "policy")

            def forward(self, windows):
                return self.policy(self.cell(windows)[0][:, -1])

        def gates(array):
            """Swap the first two of three gates: reset comes first here."""
            update, reset, candidate = np.split(array, 3, axis=-1)
            return np.concatenate([reset, update, candidate], axis=-1)

        critic = torch.nn.Sequential(torch.nn.Flatten(), self.linear(weights, "value"))
        ways = [
            lambda weight: gates(weight.T),
            lambda weight: gates(weight.T),
            gates,
            gates,
            np.transpose,
            same,
            np.transpose,
            same,
        ]
        return Net(), critic, ways

    def residual(self, weights):
        torch = self.torch
        linear = self.linear

        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = linear(weights, "first"), linear(weights, "second")
                self.policy, self.value = linear(weights, "policy"), linear(weights, "value")

            def forward(self, observations):
                features = torch.tanh(self.first(observations))
                features = features + torch.tanh(self.second(features))
                return self.policy(features), self.value(features)[:, 0]

        return Net(), "shared", [np.transpose, same] * 4 + [same]


class Tensorflow:
    """See `Torch`."""

    def __init__(self):
        self.keras = importlib.import_module("keras")

    def mlp(self, spec, weights):
        keras = self.keras
        dtype = weights["network.0.weight"].dtype.name
        depth = len(spec.network.hidden)

        def dense(prefix, number, features, activation=None):
            weight, bias = (weights[f"{prefix}.{number}.{part}"] for part in ("weight", "bias"))
            layer = keras.layers.Dense(
                len(bias), activation, dtype=dtype, name=f"{prefix}_{number}"
            )
            found = layer(features)
            layer.set_weights([weight, bias])
            return found

        def hidden(prefix, features):
            for number in range(depth):
                features = dense(prefix, number, features, "tanh")
            return features

        given = keras.Input((spec.network.inputs,), dtype=dtype)
        features = hidden("network", given)
        outputs = dense("network", depth, features)
        ways = [same] * len(spec.parameter_shapes)
        if spec.critic == "shared":
            return keras.Model(given, [outputs, dense("critic", 0, features)]), "shared", ways
        critic = None
        if spec.critic == "separate":
            critic = keras.Model(given, dense("critic", depth, hidden("critic", given)))
        return keras.Model(given, outputs), critic, ways

    def dense(self, weights, name, features, activation=None):
        keras = self.keras
        layer = keras.layers.Dense(weights[name].shape[1], activation, dtype="float64", name=name)
        found = layer(features)
        layer.set_weights([weights[name], weights[f"{name} bias"]])
        return found

    def convolution(self, weights):
        keras = self.keras
        images = keras.Input((8, 8, 3), dtype="uint8")
        scaled = (
            keras.ops.cast(images, "float64") / 255
        )  # keras.layers.Rescaling would round 1 / 255 to float32
        layer = keras.layers.Conv2D(4, 3, strides=2, activation="tanh", dtype="float64")
        features = keras.layers.Flatten(dtype="float64")(layer(scaled))
        layer.set_weights([weights["kernel"], weights["kernel bias"]])
        outputs = [self.dense(weights, name, features) for name in ("policy", "value")]
        return keras.Model(images, outputs), "shared", [same] * 6

    def recurrence(self, weights):
        keras = self.keras
        windows = keras.Input((5, 2), dtype="float64")
        cell = keras.layers.GRU(4, dtype="float64")
        outputs = self.dense(weights, "policy", cell(windows))
        cell.set_weights([weights["kernel"], weights["recurrent"], weights["bias"]])
        values = self.dense(weights, "value", keras.layers.Flatten(dtype="float64")(windows))
        return keras.Model(windows, outputs), keras.Model(windows, values), [same] * 7

    def residual(self, weights):
        keras = self.keras
        given = keras.Input((5,), dtype="float64")
        features = self.dense(weights, "first", given, "tanh")
        features = keras.layers.Add(dtype="float64")(
            [features, self.dense(weights, "second", features, "tanh")]
        )
        outputs = [self.dense(weights, name, features) for name in ("policy", "value")]
        return keras.Model(given, outputs), "shared", [same] * 9


class Jax:
    """See `Torch`."""

    def __init__(self):
        self.jax = importlib.import_module("jax")

    def mlp(self, spec, weights):
        jnp = self.jax.numpy
        depth = len(spec.network.hidden)

        def layers(prefix, numbers):
            return [
                (weights[f"{prefix}.{number}.weight"], weights[f"{prefix}.{number}.bias"])
                for number in numbers
            ]

        def hidden(parameters, features):
            for weight, bias in parameters:
                features = jnp.tanh(features @ weight + bias)
            return features

        def apply(parameters, features):
            weight, bias = parameters[-1]
            return hidden(parameters[:-1], features) @ weight + bias

        def both(parameters, observations):
            torso, (weight, bias), (value_weight, value_bias) = parameters
            features = hidden(torso, observations)
            return features @ weight + bias, features @ value_weight + value_bias

        ways = [same] * len(spec.parameter_shapes)
        if spec.critic == "shared":
            tree = (
                layers("network", range(depth)),
                *layers("network", [depth]),
                *layers("critic", [0]),
            )
            return (both, tree), "shared", ways
        critic = None if spec.critic == "none" else (apply, layers("critic", range(depth + 1)))
        return (apply, layers("network", range(depth + 1))), critic, ways

    def convolution(self, weights):
        jax, jnp = self.jax, self.jax.numpy

        def apply(parameters, images):
            kernel, kernel_bias, policy, policy_bias, value, value_bias = parameters
            convolved = jax.lax.conv_general_dilated(
                images.astype(kernel.dtype) / 255,
                kernel,
                (2, 2),
                "VALID",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            features = jnp.tanh(convolved + kernel_bias).reshape(len(images), -1)
            return features @ policy + policy_bias, features @ value + value_bias

        return (apply, list(weights.values())), "shared", [same] * 6

    def recurrence(self, weights):
        jax, jnp = self.jax, self.jax.numpy

        def apply(parameters, windows):
            kernel, recurrent, bias, policy, policy_bias = parameters

            def step(state, observations):
                given = jnp.split(observations @ kernel + bias[0], 3, axis=1)
                kept = jnp.split(state @ recurrent + bias[1], 3, axis=1)
                update, reset = (jax.nn.sigmoid(given[gate] + kept[gate]) for gate in (0, 1))
                candidate = jnp.tanh(given[2] + reset * kept[2])
                return update * state + (1 - update) * candidate, None

            start = jnp.zeros((len(windows), 4), windows.dtype)
            return jax.lax.scan(step, start, windows.swapaxes(0, 1))[0] @ policy + policy_bias

        def critic(parameters, windows):
            return windows.reshape(len(windows), -1) @ parameters[0] + parameters[1]

        tree = [weights[name] for name in ("kernel", "recurrent", "bias", "policy", "policy bias")]
        return (apply, tree), (critic, [weights["value"], weights["value bias"]]), [same] * 7

    def residual(self, weights):
        jnp = self.jax.numpy

        def apply(parameters, observations):
            (
                (first, first_bias),
                (second, second_bias),
                (policy, policy_bias),
                (value, value_bias),
            ) = parameters
            features = jnp.tanh(observations @ first + first_bias)
            features = features + jnp.tanh(features @ second + second_bias)
            return features @ policy + policy_bias, (features @ value + value_bias)[:, 0]

        tree = [
            (weights[name], weights[f"{name} bias"])
            for name in ("first", "second", "policy", "value")
        ]
        return (apply, tree), "shared", [same] * 9


FRAMEWORKS = {"torch": Torch, "tensorflow": Tensorflow, "jax": Jax}


@functools.cache
def nets(framework):
    return FRAMEWORKS[framework]()


def usable(framework):
    return framework in REQUIRED or importlib.util.find_spec(framework) is not None


@pytest.fixture(params=FRAMEWORKS)
def framework(request):
    if not usable(request.param):
        pytest.skip(f"{request.param} is not installed")
    return request.param


@functools.cache
def adopted(framework, net):
    """Return a policy, the way of each of its parameters to its weight's shape, and what it started from."""
    rng = np.random.default_rng(7)
    weights = {name: 0.5 * rng.standard_normal(shape) for name, shape in SHAPES[net].items()}
    module, critic, ways = getattr(nets(framework), net)(weights)
    policy = pg.backend(framework).adopt(module, head=HEADS[net], critic=critic)
    initial = policy.parameters()
    if "log_std" in weights:
        initial["head.log_std"] = weights["log_std"]
    return policy, ways, initial


def policy_for(framework, net):
    """Return the policy with the parameters that it started from."""
    policy, _, initial = adopted(framework, net)
    policy.load(initial)
    return policy


def common(framework, net, found):
    """Return one vector, in the order of `SHAPES`, of arrays by the policy's own names."""
    policy, ways, _ = adopted(framework, net)
    assert list(found) == list(policy.parameters())
    return np.concatenate(
        [way(value).reshape(-1) for way, value in zip(ways, found.values(), strict=True)]
    )


@functools.cache
def batch_for(net):
    """Return episodes with actions that are not the policy's own, the second one cut."""
    rng = np.random.default_rng(11)
    shape = {"convolution": (8, 8, 3), "recurrence": (5, 2), "residual": (5,)}[net]

    def observations(count):
        if net == "convolution":
            return rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        return rng.standard_normal((count, *shape))

    mask, actions = None, rng.standard_normal((STEPS, 2))
    if HEADS[net] is CATEGORICAL:
        actions = rng.integers(0, 3, STEPS)
        mask = rng.random((STEPS, 3)) < 0.6
        mask[np.arange(STEPS), actions] = True
    return pg.Batch(
        observations=observations(STEPS),
        actions=actions,
        rewards=rng.standard_normal(STEPS),
        episode_lengths=LENGTHS,
        terminated=[True, False, True],
        final_observations=observations(len(LENGTHS)),
        log_probs=-1.0 - 0.3 * rng.random(STEPS),
        action_mask=mask,
    )


def ppo(**fields):
    return pg.estimator("ppo", entropy_coefficient=0.01, clip=0.3, **fields)


def vector_of(found):
    return np.concatenate([value.reshape(-1) for value in found.values()])


SPECS = {
    ("ppo", "shared", "float64"): CATEGORICAL,
    ("ppo", "separate", "float64"): GAUSSIAN,
    ("reinforce", "none", "float32"): GAUSSIAN,
    ("actor_critic", "separate", "float32"): CATEGORICAL,
}


def native_and_adopted(framework, key):
    """Return a spec's policy, the same network adopted, a batch, and the way from the adopted names and shapes to the spec's."""
    _, critic, dtype = key
    spec = pg.PolicySpec(pg.MLP(4, (6, 5), "tanh"), SPECS[key], critic)
    return made_and_adopted(framework, spec, dtype, seed=list(SPECS).index(key))


def made_and_adopted(framework, spec, dtype, seed):
    """See `native_and_adopted`."""
    native, batch = make_case(spec, framework, dtype, seed=seed)
    module, own_critic, ways = nets(framework).mlp(spec, native.parameters())
    policy = pg.backend(framework).adopt(
        module, head=spec.head, critic=own_critic, critic_values=spec.critic_values
    )
    # The head's parameters are the policy's own, and start from the head's initial ones.
    policy.load(
        policy.parameters()
        | {n: v for n, v in native.parameters().items() if n.startswith("head.")}
    )

    def canonical(found):
        parts = zip(spec.parameter_shapes, ways, found.values(), strict=True)
        return {name: way(value) for name, way, value in parts}

    return native, policy, batch, canonical


@pytest.mark.parametrize("key", SPECS, ids="-".join)
def test_an_adopted_mlp_has_the_gradient_of_the_spec_it_equals(framework, key):
    native, policy, batch, canonical = native_and_adopted(framework, key)
    estimator = pg.estimator(key[0], entropy_coefficient=0.02)
    for name, value in canonical(policy.parameters()).items():
        np.testing.assert_array_equal(value, native.parameters()[name], err_msg=name)
    signals = pg.signals(native, estimator, batch)
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    found = gradient_row(native, estimator, batch, signals, canonical(gradient.numpy()))
    assert found.agrees, found
    assert loss_row(native, estimator, batch, signals, gradient.loss).agrees
    own = pg.signals(policy, estimator, batch)
    for name, value in signals.values.items():
        np.testing.assert_allclose(
            own[name], value, rtol=1e-12 if key[2] == "float64" else 1e-4, atol=1e-6
        )


@pytest.mark.parametrize(
    ("critic", "values", "name"),
    [
        ("shared", "action", "soft_actor"),
        ("shared", "action", "q_learning"),
        ("separate", "action", "soft_actor"),
        ("separate", "action", "q_learning"),
        ("shared", "twin", "soft_actor"),
    ],
)
def test_an_adopted_critic_of_actions_has_the_gradient_of_the_spec_it_equals(
    framework, critic, values, name
):
    spec = pg.PolicySpec(pg.MLP(4, (6, 5), "tanh"), CATEGORICAL, critic, values)
    native, policy, batch, canonical = made_and_adopted(framework, spec, "float64", seed=4)
    assert policy.spec.critic_values == values
    estimator = pg.estimator(name, gamma=0.9, **({"twin": True} if values == "twin" else {}))
    signals = pg.signals(native, estimator, batch)
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    found = gradient_row(native, estimator, batch, signals, canonical(gradient.numpy()))
    assert found.agrees, found
    assert loss_row(native, estimator, batch, signals, gradient.loss).agrees
    names = ("action_values", "final_action_values")
    if values == "twin":
        names += ("twin_action_values", "final_twin_action_values")
    for key, value in native.evaluate(batch, names).items():
        np.testing.assert_allclose(
            policy.evaluate(batch, names)[key], value, rtol=1e-12, atol=1e-14
        )


def test_a_critic_of_actions_gives_a_value_an_action_and_nothing_else(framework):
    spec = pg.PolicySpec(pg.MLP(4, (6, 5), "tanh"), CATEGORICAL, "separate", "state")
    native, batch = make_case(spec, framework, "float64", seed=4)
    module, critic, _ = nets(framework).mlp(spec, native.parameters())
    policy = pg.backend(framework).adopt(
        module, head=CATEGORICAL, critic=critic, critic_values="action"
    )
    with pytest.raises(
        ShapeError,
        match=r"expected values of shape \[.*, 3\] for .*, got \[.*, 1\]; return one value an action a step",
    ):
        policy.evaluate(batch, ("action_values",))
    twins = pg.backend(framework).adopt(
        module, head=CATEGORICAL, critic=critic, critic_values="twin"
    )
    with pytest.raises(
        ShapeError,
        match=r"expected values of shape \[.*, 6\] .* got \[.*, 1\]; return two values an action a step",
    ):
        twins.evaluate(batch, ("action_values",))
    with pytest.raises(
        SpecError,
        match=r"PolicySpec.critic_values: expected 'state' .* with critic='none', got 'action'",
    ):
        pg.backend(framework).adopt(module, head=CATEGORICAL, critic_values="action")
    with pytest.raises(
        SpecError,
        match=r"PolicySpec.critic_values: expected one of 'state', 'action', 'twin', got 'both'",
    ):
        pg.backend(framework).adopt(module, head=CATEGORICAL, critic=critic, critic_values="both")


def test_an_adopted_mlp_steps_as_the_spec_it_equals(framework):
    native, policy, batch, canonical = native_and_adopted(framework, ("ppo", "shared", "float64"))
    before = native.parameters()
    for stepped in (native, policy):
        momentum = pg.optimizer("sgd", learning_rate=0.1, momentum=0.9, max_grad_norm=0.05)
        for steps in (momentum, momentum, pg.optimizer("adam", learning_rate=0.01)):
            steps.step(stepped, pg.gradient(stepped, ppo(), batch))
    for name, value in canonical(policy.parameters()).items():
        np.testing.assert_allclose(
            value, native.parameters()[name], rtol=1e-9, atol=1e-12, err_msg=name
        )
        assert not np.array_equal(value, before[name]), name


@pytest.mark.parametrize("net", NETS)
def test_the_gradient_is_the_slope_of_the_loss(framework, net):
    policy, batch, estimator = policy_for(framework, net), batch_for(net), ppo()
    signals = pg.signals(policy, estimator, batch)
    start = policy.parameters()
    gradient = pg.gradient(policy, estimator, batch, signals=signals).numpy()
    assert any(np.any(value) for value in gradient.values())

    def loss(direction, size):
        policy.load({name: value + size * direction[name] for name, value in start.items()})
        return pg.gradient(policy, estimator, batch, signals=signals).loss

    def slope(direction, size):
        return (loss(direction, size) - loss(direction, -size)) / (2 * size)

    for seed in (1, 2):
        direction = random_direction(start, np.random.default_rng(seed))
        by_differences = (4 * slope(direction, 5e-4) - slope(direction, 1e-3)) / 3
        by_gradient = sum(float(np.vdot(gradient[name], direction[name])) for name in start)
        assert by_gradient == pytest.approx(by_differences, rel=1e-8, abs=1e-9)


def every_action(policy, batch):
    """Return a batch of one-step episodes with every action of every step, and the probability of each.

    Real actions are the nodes of a quadrature that is exact for the products of two scores.
    """
    described = policy.evaluate(batch, ("distribution",))["distribution"]
    if policy.spec.head.discrete:
        index, actions = np.nonzero(batch.action_mask)
        chances = np.exp(described[index, actions])
    else:
        nodes, weights = np.polynomial.hermite_e.hermegauss(3)
        grid = np.array(list(itertools.product(nodes, nodes)))
        index = np.repeat(np.arange(batch.num_steps), len(grid))
        mean, log_std = np.split(described[index], 2, axis=1)
        actions = mean + np.exp(log_std) * np.tile(grid, (batch.num_steps, 1))
        chances = np.tile(np.outer(weights, weights).reshape(-1) / (2 * np.pi), batch.num_steps)
    mask = None if batch.action_mask is None else batch.action_mask[index]
    ones = np.ones(len(index), int)
    single = pg.Batch(
        observations=batch.observations[index],
        actions=actions,
        rewards=np.zeros(len(index)),
        episode_lengths=ones,
        terminated=ones,
        action_mask=mask,
    )
    return single, chances / batch.num_steps


@pytest.mark.parametrize("net", NETS)
def test_scores_add_up_to_the_gradient_and_to_fisher_products(framework, net):
    policy, batch = policy_for(framework, net), batch_for(net)
    weighed = policy.episode_scores(batch, pg.signals(policy, REINFORCE, batch)["advantage"])
    assert weighed.shape == (
        len(LENGTHS),
        sum(value.size for value in policy.parameters().values()),
    )
    gradient = vector_of(pg.gradient(policy, REINFORCE, batch).numpy())
    np.testing.assert_allclose(-weighed.mean(0), gradient, rtol=1e-11, atol=1e-13)

    single, chances = every_action(policy, batch)
    scores = policy.episode_scores(single)
    u, v = np.random.default_rng(3).standard_normal((2, scores.shape[1]))
    along_u, along_v = (policy.fisher_vector_product(batch, vector) for vector in (u, v))
    np.testing.assert_allclose(along_v, scores.T @ (chances * (scores @ v)), rtol=1e-9, atol=1e-11)
    assert u @ along_v == pytest.approx(v @ along_u, rel=1e-10)
    assert v @ along_v > 0
    critic = np.concatenate(
        [
            np.full(value.size, name.startswith("critic."))
            for name, value in policy.parameters().items()
        ]
    )
    assert not along_v[critic].any()


@pytest.mark.parametrize("net", NETS)
def test_one_network_has_one_gradient_in_every_framework(net):
    found = {}
    for name in filter(usable, FRAMEWORKS):
        gradient = pg.gradient(policy_for(name, net), ppo(), batch_for(net))
        found[name] = common(name, net, gradient.numpy()), gradient.loss
    if len(found) < 2:
        pytest.skip("needs two frameworks")
    (first, loss), *others = found.values()
    for vector, other in others:
        np.testing.assert_allclose(vector, first, rtol=1e-11, atol=1e-12 * np.abs(first).max())
        assert other == pytest.approx(loss, rel=1e-12)


def bandit(policy, rng, rounds=32):
    """Return one-step episodes: the action that matches the context is worth 1."""
    contexts = rng.integers(0, 3, rounds)
    observations = np.eye(4)[contexts]
    actions, log_probs = policy.act(observations, rng)
    ones = np.ones(rounds, int)
    return pg.Batch(
        observations=observations,
        actions=actions,
        rewards=actions == contexts,
        episode_lengths=ones,
        terminated=ones,
        log_probs=log_probs,
    )


def mlp_policy(framework, head: Head = CATEGORICAL, seed=0):
    spec = pg.PolicySpec(pg.MLP(4, (6,)), head)
    initial = {
        name: value.astype(np.float32) for name, value in spec.initial_parameters(seed).items()
    }
    module, critic, _ = nets(framework).mlp(spec, initial)
    return pg.backend(framework).adopt(module, head=head, critic=critic)


def test_reinforce_learns_a_contextual_bandit(framework):
    policy, rng = mlp_policy(framework), pg.generator(5)
    estimator, optimizer = (
        pg.estimator("reinforce", baseline="mean"),
        pg.optimizer("adam", learning_rate=0.05),
    )
    rewards = []
    for _ in range(30):
        batch = bandit(policy, rng)
        rewards.append(batch.rewards.mean())
        optimizer.step(policy, pg.gradient(policy, estimator, batch))
    assert np.mean(rewards[:5]) < 0.6
    assert np.mean(rewards[-5:]) > 0.9


def test_a_saved_policy_is_loaded_into_another_to_the_bit(framework, tmp_path):
    head = pg.DiagonalGaussian(2, "shared", std=0.4)
    saved, other = mlp_policy(framework, head), mlp_policy(framework, head, seed=1)
    file = tmp_path / "policy.safetensors"
    saved.save(file)
    assert pg.load(file, into=other) is other
    for name, value in saved.parameters().items():
        np.testing.assert_array_equal(other.parameters()[name], value, err_msg=name)
    observations = np.random.default_rng(0).standard_normal((5, 4))
    np.testing.assert_array_equal(
        other.distribution(observations), saved.distribution(observations)
    )


def test_a_saved_policy_is_loaded_into_one_of_its_head_and_critic_only(framework, tmp_path):
    file = tmp_path / "policy.safetensors"
    mlp_policy(framework).save(file)
    for head, words in (
        (
            pg.Categorical(3, temperature=0.9),
            r"categorical\(n=3, temperature=0.9\), got categorical\(n=3, temperature=0.8\)",
        ),
        (pg.EpsilonGreedy(3), "epsilon_greedy.*, got categorical"),
    ):
        other = mlp_policy(framework, head, seed=1)
        before = other.parameters()
        with pytest.raises(
            SpecError, match=rf"expected the head of the policy that it is loaded into, {words}"
        ):
            pg.load(file, into=other)
        for name, value in other.parameters().items():
            np.testing.assert_array_equal(value, before[name])
    spec = pg.PolicySpec(pg.MLP(4, (6,)), CATEGORICAL, "separate")
    module, critic, _ = nets(framework).mlp(spec, spec.initial_parameters(0))
    with pytest.raises(
        SpecError,
        match="expected the critic of the policy that it is loaded into, 'separate', got 'none'",
    ):
        pg.load(file, into=pg.backend(framework).adopt(module, head=CATEGORICAL, critic=critic))


def test_a_saved_policy_needs_one_to_be_loaded_into(framework, tmp_path):
    file = tmp_path / "policy.safetensors"
    mlp_policy(framework).save(file)
    with pytest.raises(
        SpecError, match=r"expected a network that can be built, got an adopted one; .*into=policy"
    ):
        pg.load(file, backend=framework)


def test_an_optimizer_goes_on_from_its_state(framework):
    policy, batch = policy_for(framework, "residual"), batch_for("residual")
    gradient = pg.gradient(policy, ppo(), batch)
    first = pg.optimizer("adam", learning_rate=0.01)
    first.step(policy, gradient)
    state, start = first.state(policy), policy.parameters()
    first.step(policy, gradient)
    found = policy.parameters()
    policy.load(start)
    second = pg.optimizer("adam", learning_rate=0.01)
    second.load(policy, state, steps_taken=1)
    second.step(policy, gradient)
    for name, value in policy.parameters().items():
        np.testing.assert_array_equal(value, found[name], err_msg=name)


def test_padding_changes_nothing(framework):
    """Also where steps are padded to reuse compiled code: 9 steps are 12 then, and 11 are too."""
    policy, batch = policy_for(framework, "convolution"), batch_for("convolution")
    plain, padded = (
        pg.gradient(policy, REINFORCE, given).numpy() for given in (batch, batch.pad(11))
    )
    for name, value in plain.items():
        np.testing.assert_allclose(padded[name], value, rtol=1e-11, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("critic", ["separate", "none", "Shared"])
def test_a_critic_by_another_name_than_shared_is_refused(framework, critic):
    spec = pg.PolicySpec(pg.MLP(4, (6,)), CATEGORICAL)
    module, _, _ = nets(framework).mlp(spec, spec.initial_parameters(0))
    with pytest.raises(
        SpecError,
        match=rf"{framework}.adopt critic: expected None, 'shared' or a network .*got '{critic}'",
    ):
        pg.backend(framework).adopt(module, head=CATEGORICAL, critic=critic)


def test_what_is_no_head_is_refused(framework):
    wrong: Any = 3
    spec = pg.PolicySpec(pg.MLP(4, (6,)), CATEGORICAL)
    module, _, _ = nets(framework).mlp(spec, spec.initial_parameters(0))
    with pytest.raises(SpecError, match=r"PolicySpec.head: expected a Head such as Categorical"):
        pg.backend(framework).adopt(module, head=wrong)


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("adopt_*.py")), ids=lambda path: path.stem)
def test_the_example_runs(example, capsys):
    name = example.stem.removeprefix("adopt_")
    if not usable(name):
        pytest.skip(f"{name} is not installed")
    runpy.run_path(str(example), run_name="__main__")
    before, after = (float(word) for word in capsys.readouterr().out.split()[-2:])
    assert after < before
