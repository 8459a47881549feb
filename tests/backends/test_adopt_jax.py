"""What only JAX's pairs of a function and a tree can be: any tree, any leaf, arrays that never change."""

from __future__ import annotations

import functools
import importlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, ParameterError, ShapeError, SpecError
from pgcore.heads import Head

REQUIRED = "jax" in os.environ.get("PGCORE_REQUIRE_BACKENDS", "")
jax = importlib.import_module("jax") if REQUIRED else pytest.importorskip("jax")
jnp = jax.numpy
enable_x64 = importlib.import_module("pgcore_jax.parameters").enable_x64

HEAD = pg.Categorical(3)
PPO = pg.estimator("ppo", entropy_coefficient=0.01)
REINFORCE = pg.estimator("reinforce")


def adopt(module, critic=None, head: Head = HEAD, **options) -> Any:
    return pg.backend("jax").adopt(module, head=head, critic=critic, **options)


def mlp(parameters, observations):
    hidden = jnp.tanh(observations @ parameters["first"]["weight"] + parameters["first"]["bias"])
    return hidden @ parameters["second"]["weight"] + parameters["second"]["bias"]


def tree(outputs=3, seed=0, dtype: Any = np.float64):
    rng = np.random.default_rng(seed)

    def layer(*shape):
        return {
            "weight": rng.standard_normal(shape).astype(dtype),
            "bias": np.zeros(shape[1], dtype),
        }

    return {"first": layer(3, 5), "second": layer(5, outputs)}


def gradient(policy, batch, estimator=REINFORCE):
    return pg.gradient(policy, estimator, batch).numpy()


def test_the_trees_given_stay_and_the_policy_has_the_trained_ones(make_batch):
    network, critic = tree(), tree(1, seed=1)
    policy = adopt((mlp, network), (mlp, critic))
    names = ("first.bias", "first.weight", "second.bias", "second.weight")
    assert list(policy.parameters()) == [*names, *(f"critic.{name}" for name in names)]
    pg.optimizer("adam").step(policy, pg.gradient(policy, PPO, make_batch()))
    for own, given, fresh, prefix in (
        (policy.tree, network, tree(), ""),
        (policy.critic_tree, critic, tree(1, seed=1), "critic."),
    ):
        assert jax.tree.structure(own) == jax.tree.structure(given)
        for layer, part in (name.split(".") for name in names):
            np.testing.assert_array_equal(given[layer][part], fresh[layer][part])
            np.testing.assert_array_equal(
                own[layer][part], policy.parameters()[f"{prefix}{layer}.{part}"]
            )
            assert not np.array_equal(own[layer][part], given[layer][part])


def test_the_gradient_is_that_of_jax(make_batch):
    batch, network = make_batch(), tree()
    policy = adopt((mlp, network))
    weights = pg.signals(policy, REINFORCE, batch)["advantage"] / 2

    def loss(parameters):
        logits = jnp.where(batch.action_mask, mlp(parameters, batch.observations), -jnp.inf)
        return -jnp.sum(weights * jax.nn.log_softmax(logits)[jnp.arange(6), batch.actions])

    with enable_x64(True):
        expected = jax.grad(loss)(network)
    found = gradient(policy, batch)
    for name, value in found.items():
        layer, part = name.split(".")
        np.testing.assert_allclose(
            value, expected[layer][part], rtol=1e-12, atol=1e-15, err_msg=name
        )


def test_float64_needs_no_setting_of_the_process_and_leaves_it_alone(make_batch):
    assert not jax.config.jax_enable_x64
    assert {
        value.dtype.name for value in gradient(adopt((mlp, tree())), make_batch()).values()
    } == {"float64"}
    single = adopt((mlp, jax.tree.map(jnp.asarray, tree(dtype=np.float32))))
    assert {value.dtype.name for value in gradient(single, make_batch()).values()} == {"float32"}
    assert not jax.config.jax_enable_x64


@jax.tree_util.register_pytree_node_class
class Layers:
    """A node of a tree that is no container of Python's."""

    def __init__(self, *parts):
        self.parts = parts

    def tree_flatten(self):
        return self.parts, None

    @classmethod
    def tree_unflatten(cls, _, parts):
        return cls(*parts)


@dataclass
class Called:
    """A function that can be compared, and so not hashed."""

    scale: float = 1.0

    def __call__(self, parameters, observations):
        return self.scale * (observations @ parameters)


LINEAR = np.random.default_rng(2).standard_normal((3, 3))


@pytest.mark.parametrize(
    ("apply", "parameters", "names"),
    [
        (Called(), LINEAR, ["parameters"]),
        (lambda parameters, x: x @ parameters[0], [LINEAR], ["0"]),
        (lambda parameters, x: x @ parameters["a"][0], {"a": (LINEAR, None)}, ["a.0"]),
        (
            lambda parameters, x: x @ parameters.parts[0] * parameters.parts[1],
            Layers(LINEAR, np.ones(())),
            ["0", "1"],
        ),
        (
            functools.partial(lambda scale, parameters, x: scale * (x @ parameters[1]), 1.0),
            {1: LINEAR},
            ["1"],
        ),
    ],
    ids=["array", "list", "nested", "node", "partial"],
)
def test_any_tree_will_do(make_batch, apply, parameters, names):
    policy, batch = adopt((apply, parameters)), make_batch()
    assert list(policy.parameters()) == names
    expected = gradient(adopt((lambda weight, x: x @ weight["w"], {"w": LINEAR})), batch)["w"]
    np.testing.assert_allclose(gradient(policy, batch)[names[0]], expected, rtol=1e-12)
    assert jax.tree.structure(policy.tree) == jax.tree.structure(parameters)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda x: x[:, :2],
            r"Adopted\(<lambda>\): expected outputs of shape \[6, 3\] for .*, got \[6, 2\]; return one row",
        ),
        (lambda x: x[:3], r"expected outputs of shape \[6, 3\] .*, got \[3, 3\]"),
        (
            lambda x: x.astype(jnp.float32),
            "expected outputs in float64, as its parameters are, got float32",
        ),
        (lambda x: (x, x[:, 0]), r"expected outputs of shape \[6, 3\] .*, got tuple"),
        (lambda x: None, r"expected outputs of shape \[6, 3\] .*, got NoneType"),
    ],
    ids=["width", "rows", "dtype", "pair", "none"],
)
def test_outputs_that_are_no_natural_parameters_are_refused(make_batch, change, words):
    policy = adopt((lambda parameters, x: change(mlp(parameters, x)), tree()))
    with pytest.raises((ShapeError, SpecError), match=words):
        gradient(policy, make_batch())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda x: x,
            r"expected values of shape \[1\] for .*, got NoneType; return one value a step",
        ),
        (lambda x: (x, x), r"expected values of shape \[1\] for .*, got \[1, 3\]"),
        (lambda x: (x, x[:, 0].astype(jnp.float32)), "expected values in float64, .* got float32"),
    ],
    ids=["none", "shape", "dtype"],
)
def test_values_of_a_shared_critic_that_are_none_are_refused(make_batch, change, words):
    policy = adopt((lambda parameters, x: change(mlp(parameters, x)), tree()), "shared")
    with pytest.raises((ShapeError, SpecError), match=words):
        gradient(policy, make_batch(), PPO)


def test_values_of_a_critic_of_its_own_may_be_a_column_and_nothing_wider(make_batch):
    assert adopt((mlp, tree()), (mlp, tree(1))).evaluate(make_batch(), ("value",))[
        "value"
    ].shape == (6,)
    with pytest.raises(ShapeError, match=r"expected values of shape \[6\] for .*, got \[6, 2\]"):
        adopt((mlp, tree()), (mlp, tree(2))).evaluate(make_batch(), ("value",))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (3, r"jax\.adopt module: expected a pair \(apply, parameters\) .*, got int; pass both"),
        (mlp, r"jax\.adopt module: expected a pair \(apply, parameters\) .*, got function"),
        ((mlp,), r"jax\.adopt module: expected a pair .*, got tuple"),
        ((tree(), mlp), r"jax\.adopt module: expected a pair .*, got tuple"),
        ((mlp, {}), r"jax\.adopt mlp: expected parameters to train, got none"),
        ((mlp, tree(dtype=np.int64)), r"expected parameters all float32 or all float64, got first\.bias int64"),
        ((mlp, tree(dtype=np.float16)), r"all float32 or all float64, got first\.bias float16"),
        ((mlp, jax.tree.map(functools.partial(jnp.asarray, dtype=jnp.bfloat16), tree())), r"got first\.bias bfloat16"),
        ((mlp, tree() | {"second": tree(dtype=np.float32)["second"]}), r"or all float64, got second\.bias float32"),
        ((mlp, tree() | {"rate": 0.1}), r"got rate float; convert them, and close over arrays that are not trained"),
        ((mlp, tree() | {"steps": np.zeros((), int)}), r"got steps int64; convert them, and close over"),
        ((mlp, tree() | {"zkey": jax.random.key(0)}), r"got zkey key<fry>; convert them"),
        ((mlp, {"a": {"b": LINEAR}, "a.b": LINEAR}), r"expected a\.b to name one parameter, got two; rename"),
        ((mlp, {"head": {"log_std": LINEAR}}), r"expected head\.log_std to name one parameter, got two; rename"),
    ],
    ids=[
        "number", "function", "one", "swapped", "empty", "integers", "half", "bfloat16", "mixed", "number leaf", "integer leaf", "key",
        "one name twice", "head's name",
    ],
)  # fmt: skip
def test_pairs_that_cannot_be_trained_are_refused(module, words):
    with pytest.raises(SpecError, match=words):
        adopt(module, head=pg.DiagonalGaussian(3, "shared"))


def test_critics_that_cannot_be_trained_are_refused():
    with pytest.raises(
        SpecError, match=r"jax\.adopt critic: expected a pair \(apply, parameters\)"
    ):
        adopt((mlp, tree()), mlp)
    with pytest.raises(
        SpecError, match=r"expected critic\.first\.bias to name one parameter, got two"
    ):
        adopt((mlp, tree() | {"critic": tree(1)}), (mlp, tree(1)))
    with pytest.raises(
        SpecError, match=r"all float32 or all float64, got critic\.first\.bias float32"
    ):
        adopt((mlp, tree()), (mlp, tree(1, dtype=np.float32)))


def test_a_parameter_that_is_nan_is_refused_by_name():
    bad = tree()
    bad["second"]["weight"][0, 0] = np.nan
    with pytest.raises(
        ParameterError, match=r"expected finite parameters, got NaN or infinity in second\.weight"
    ):
        adopt((mlp, bad))
    with pytest.raises(ParameterError, match=r"got NaN or infinity in critic\.second\.weight"):
        adopt((mlp, tree()), (mlp, bad))


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x - x.mean(0),
        lambda x: jnp.cumsum(x, 0),
        lambda x: x / len(x),
        lambda x: x * jax.random.bernoulli(KEY, 0.5, x.shape),
    ],
    ids=["over the batch", "as a sequence", "by its number", "one mask for all time"],
)
def test_functions_that_depend_on_other_steps_are_refused(make_batch, change):
    words = r"expected outputs that depend on one observation alone, got others at step \d .*; normalise over features or by constants$"
    batch = make_batch().steps(range(5))  # computed as six
    for apply, critic in (
        (lambda parameters, x: mlp(parameters, change(x)), mlp),
        (mlp, lambda parameters, x: mlp(parameters, change(x))),
    ):
        policy = adopt((apply, tree()), (critic, tree(1)))
        with pytest.raises(SpecError, match=words):
            policy.evaluate(batch, ("log_prob", "value"))


def test_a_failure_on_observations_names_the_function_and_what_it_was_given(make_batch):
    def written(parameters, observations):
        observations[0] = 0.0
        return mlp(parameters, observations)

    policy = adopt((mlp, tree()))
    gradient(policy, make_batch())
    words = (
        r"jax {}: expected a network that takes observations \[B, {}\] float64, got TypeError \({}"
    )
    with pytest.raises(BatchError, match=words.format("mlp", 4, "dot_general requires")) as refused:
        gradient(policy, make_batch(observations=np.zeros((6, 4)), final_observations=None))
    assert isinstance(refused.value.__cause__, TypeError)
    with pytest.raises(BatchError, match=words.format("mlp", 2, "dot_general requires")):
        policy.act(np.zeros((1, 2)), pg.generator(0))
    with pytest.raises(BatchError, match=words.format("written", 3, ".*JAX arrays are immutable")):
        gradient(adopt((written, tree())), make_batch())
    with pytest.raises(BatchError, match=words.format("written", 3, ".*JAX arrays are immutable")):
        gradient(adopt((mlp, tree()), (written, tree(1))), make_batch(), PPO)


def test_padding_to_a_size_that_is_compiled_changes_nothing(make_batch):
    """Five steps are computed as six, one step as itself."""
    steps, policy, batch = 5, adopt((mlp, tree())), make_batch()
    part = batch.steps(range(steps))
    direction = np.random.default_rng(1).standard_normal(policy.size)
    alone = [policy.fisher_vector_product(batch.steps([t]), direction) for t in range(steps)]
    np.testing.assert_allclose(
        policy.fisher_vector_product(part, direction),
        np.mean(alone, axis=0),
        rtol=1e-11,
        atol=1e-14,
    )
    np.testing.assert_allclose(
        policy.episode_scores(part),
        np.concatenate([policy.episode_scores(batch.steps([t])) for t in range(steps)]),
        rtol=1e-12,
    )


@jax.custom_vjp
def own_tanh(x):
    return jnp.tanh(x)


own_tanh.defvjp(
    lambda x: (jnp.tanh(x),) * 2, lambda found, cotangent: (cotangent * (1.0 - found * found),)
)


def test_a_function_with_a_derivative_of_its_own_has_fisher_products(make_batch):
    def own_mlp(parameters, observations):
        hidden = own_tanh(
            observations @ parameters["first"]["weight"] + parameters["first"]["bias"]
        )
        return hidden @ parameters["second"]["weight"] + parameters["second"]["bias"]

    policy, plain, batch = adopt((own_mlp, tree())), adopt((mlp, tree())), make_batch()
    direction = np.random.default_rng(1).standard_normal(policy.size)
    found, expected = (each.fisher_vector_product(batch, direction) for each in (policy, plain))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13 * np.abs(expected).max())
    report = pg.optimizer("trpo").step(policy, pg.gradient(policy, REINFORCE, batch))
    assert report is not None
    assert report.accepted


def test_arrays_are_copied_and_tracers_refused(make_batch):
    np.testing.assert_array_equal(make_batch(observations=jnp.ones((6, 3))).observations, 1.0)

    def traced(observations):
        with pytest.raises(
            BatchError,
            match=r"Batch\.observations: expected an array that NumPy can read, got .*Tracer",
        ):
            make_batch(observations=observations)
        return observations

    jax.jit(traced)(np.ones((6, 3)))


@pytest.mark.parametrize(
    "device", ["nonsense", "cpu:7", "cpu:", "cpu:x", "cpu:-1", ":0", "", "meta"]
)
def test_a_device_that_is_not_here_is_refused(device):
    words = r"jax\.policy device: expected a platform that JAX can use here, such as 'cpu' or 'gpu:1', got .*; choose 'cpu'"
    with pytest.raises(SpecError, match=words):
        pg.policy(pg.PolicySpec(pg.Linear(2), HEAD), backend="jax", device=device)
