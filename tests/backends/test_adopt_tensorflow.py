"""What only Keras's models can be: trained in place, with layers for training, frozen, tied, unbuilt, on another backend."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, ParameterError, ShapeError, SpecError
from pgcore.heads import Head

REQUIRED = "tensorflow" in os.environ.get("PGCORE_REQUIRE_BACKENDS", "")
tf = importlib.import_module("tensorflow") if REQUIRED else pytest.importorskip("tensorflow")
keras = importlib.import_module("keras") if REQUIRED else pytest.importorskip("keras")
layers = keras.layers

HEAD = pg.Categorical(3)
PPO = pg.estimator("ppo", entropy_coefficient=0.01)
REINFORCE = pg.estimator("reinforce")


def adopt(module, critic=None, head: Head = HEAD, **options) -> Any:
    return pg.backend("tensorflow").adopt(module, head=head, critic=critic, **options)


def dense(units, activation=None, **options):
    return layers.Dense(units, activation, **({"dtype": "float64"} | options))


def mlp(outputs=3, *middle, first=None, seed=0):
    keras.utils.set_random_seed(seed)
    first = first or dense(5, "tanh", name="first")
    return keras.Sequential(
        [keras.Input((3,), dtype="float64"), first, *middle, dense(outputs, name="second")]
    )


def changed(change, inner=None):
    """Return a model with something done to another one's outputs."""
    inner = inner or mlp()
    given = keras.Input((3,), dtype="float64")
    return keras.Model(given, change(inner(given)), name="changed")


def gradient(policy, batch, estimator=REINFORCE):
    return pg.gradient(policy, estimator, batch).numpy()


def test_the_models_own_variables_are_trained_in_place(make_batch):
    network, critic = mlp(), mlp(1, seed=1)
    policy = adopt(network, critic)
    before = network.get_weights() + critic.get_weights()
    pg.optimizer("adam").step(policy, pg.gradient(policy, PPO, make_batch()))
    after = network.get_weights() + critic.get_weights()
    for now, old, (name, value) in zip(after, before, policy.parameters().items(), strict=True):
        assert not np.array_equal(now, old), name
        np.testing.assert_array_equal(now, value, err_msg=name)
    assert list(policy.parameters()) == [
        "first/kernel",
        "first/bias",
        "second/kernel",
        "second/bias",
    ] + [
        f"critic.{name}" for name in ("first/kernel", "first/bias", "second/kernel", "second/bias")
    ]


def test_an_lstm_over_a_window_has_the_gradient_that_a_tape_finds(make_batch):
    keras.utils.set_random_seed(0)
    windows = keras.Input((4, 2), dtype="float64")
    network = keras.Model(windows, dense(3)(layers.LSTM(4, dtype="float64")(windows)))
    batch = make_batch(
        observations=np.random.default_rng(0).standard_normal((6, 4, 2)), final_observations=None
    )
    policy = adopt(network)
    weights = pg.signals(policy, REINFORCE, batch)["advantage"] / 2
    with tf.GradientTape() as tape:
        logits = tf.where(
            batch.action_mask, network(batch.observations), tf.constant(-np.inf, tf.float64)
        )
        loss = -tf.reduce_sum(
            weights * tf.gather(tf.nn.log_softmax(logits), batch.actions, axis=1, batch_dims=1)
        )
    expected = tape.gradient(loss, network.trainable_weights)
    for (name, value), derivative in zip(gradient(policy, batch).items(), expected, strict=True):
        np.testing.assert_allclose(value, derivative.numpy(), rtol=1e-11, atol=1e-14, err_msg=name)


def test_a_model_may_be_a_subclass(make_batch):
    class Net(keras.Model):
        def __init__(self):
            super().__init__(dtype="float64")
            self.inner = mlp()

        def call(self, observations):
            return self.inner(observations)

    network = Net()
    with pytest.raises(
        SpecError, match="expected a model that is built, got net without weights; call it once"
    ):
        adopt(network)
    network(np.zeros((1, 3)))
    expected = gradient(adopt(network.inner), make_batch())
    for value, other in zip(
        gradient(adopt(network), make_batch()).values(), expected.values(), strict=True
    ):
        np.testing.assert_array_equal(value, other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda x: x[:, :2],
            r"Adopted\(keras changed\): expected outputs of shape \[.*, 3\] for .*, got \[.*, 2\]",
        ),
        (lambda x: x[:, :, None], r"expected outputs of shape \[.*, 3\] .*, got \[.*, 3, 1\]"),
        (
            lambda x: keras.ops.cast(x, "float32"),
            "expected outputs in float64, as its parameters are, got .*float32",
        ),
        (lambda x: [x, x[:, 0]], r"expected outputs of shape \[.*, 3\] .*, got list"),
        (lambda x: {"logits": x}, r"expected outputs of shape \[.*, 3\] .*, got dict"),
    ],
    ids=["width", "dimensions", "dtype", "pair", "dict"],
)
def test_outputs_that_are_no_natural_parameters_are_refused(make_batch, change, words):
    policy = adopt(changed(change))
    with pytest.raises((ShapeError, SpecError), match=words):
        gradient(policy, make_batch())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x, r"expected values of shape \[.*\] for .*, got NoneType"),
        (lambda x: [x, x], r"expected values of shape \[.*\] for .*, got \[.*, 3\]"),
        (
            lambda x: [x, keras.ops.cast(x[:, 0], "float32")],
            "expected values in float64, .* got .*float32",
        ),
    ],
    ids=["none", "shape", "dtype"],
)
def test_values_of_a_shared_critic_that_are_none_are_refused(make_batch, change, words):
    policy = adopt(changed(change), "shared")
    with pytest.raises((ShapeError, SpecError), match=words):
        gradient(policy, make_batch(), PPO)


def test_values_may_be_flat_or_a_column_and_nothing_wider(make_batch):
    column = adopt(changed(lambda x: [x, x[:, :1]]), "shared").evaluate(make_batch(), ("value",))[
        "value"
    ]
    flat = adopt(changed(lambda x: [x, x[:, 0]]), "shared").evaluate(make_batch(), ("value",))[
        "value"
    ]
    np.testing.assert_array_equal(column, flat)
    assert column.shape == (6,)
    with pytest.raises(ShapeError, match=r"expected values of shape \[.*\] for .*, got \[.*, 2\]"):
        adopt(mlp(), mlp(2)).evaluate(make_batch(), ("value",))


def frozen(model):
    model.trainable = False
    return model


def unbuilt():
    return keras.Sequential([dense(3)], name="unbuilt")


class Twice(keras.Model):
    """Two layers of one name."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.inner = [dense(2, name="same"), dense(2, name="same")]
        self(np.zeros((1, 3)))

    def call(self, observations):
        return self.inner[0](observations) + self.inner[1](observations)


class Named(keras.Model):
    """A weight of the name that the head's has."""

    def __init__(self):
        super().__init__(dtype="float64")
        self.scale = self.add_weight(shape=(2,), name="head.log_std", dtype="float64")
        self(np.zeros((1, 3)))

    def call(self, observations):
        return observations[:, :2] * self.scale


def half():
    return keras.Sequential([keras.Input((3,)), dense(3, name="only", dtype="float16")])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: frozen(mlp()),
            r"tensorflow\.adopt sequential.*: expected a model with variables to train, got none",
        ),
        (half, "expected variables all float32 or all float64, got only/kernel float16"),
        (
            lambda: mlp(2, dense(4, name="odd", dtype="float32")),
            "all float32 or all float64, got odd/kernel float32",
        ),
        (
            Twice,
            "expected variables of different paths, got two of one; name the layers differently",
        ),
        (
            unbuilt,
            r"tensorflow\.adopt module: expected a model that is built, got unbuilt without weights; call it once",
        ),
        (
            Named,
            r"expected head\.log_std to name one variable, got two; rename the model's own layer",
        ),
        (lambda: 3, r"tensorflow\.adopt module: expected a keras\.Model, got int"),
        (lambda: dense(3), r"tensorflow\.adopt module: expected a keras\.Model, got Dense"),
        (tf.Module, r"tensorflow\.adopt module: expected a keras\.Model, got Module"),
    ],
    ids=[
        "frozen",
        "half",
        "mixed",
        "paths",
        "unbuilt",
        "head's name",
        "number",
        "layer",
        "tf.Module",
    ],
)
def test_models_that_cannot_be_trained_are_refused(make, words):
    with pytest.raises(SpecError, match=words):
        adopt(make(), head=pg.DiagonalGaussian(2, "shared"))


def test_a_variable_that_is_nan_is_refused_by_name():
    network = mlp()
    network.set_weights([weight * np.nan for weight in network.get_weights()])
    with pytest.raises(
        ParameterError, match="expected finite parameters, got NaN or infinity in first/kernel"
    ):
        adopt(network)
    with pytest.raises(ParameterError, match=r"got NaN or infinity in critic\.first/kernel"):
        adopt(mlp(), network)


def test_a_network_that_has_a_variable_of_the_critics_name_is_refused():
    network = mlp(first=dense(5, name="critic.first"))
    with pytest.raises(
        SpecError, match=r"expected critic\.first/kernel to name one variable, got two; rename"
    ):
        adopt(network, mlp(1))
    assert "critic.first/kernel" in adopt(network).parameters()


def test_a_critic_that_is_no_model_is_refused():
    with pytest.raises(
        SpecError, match=r"tensorflow\.adopt critic: expected a keras\.Model, got function"
    ):
        adopt(mlp(), lambda observations: observations[:, 0])


def normal(trainable=True):
    return layers.BatchNormalization(dtype="float64", name="normal", trainable=trainable)


STOCHASTIC = {
    "Dropout": lambda: layers.Dropout(0.5, dtype="float64", name="drop"),
    "a subclass": lambda: type("Own", (layers.Dropout,), {})(0.5, dtype="float64", name="drop"),
    "GaussianNoise": lambda: layers.GaussianNoise(0.5, dtype="float64", name="noise"),
    "BatchNormalization": normal,
    "GRU": lambda: keras.Sequential(
        [layers.Reshape((5, 1)), layers.GRU(4, recurrent_dropout=0.2, dtype="float64")]
    ),
}


@pytest.mark.parametrize("name", STOCHASTIC)
def test_layers_that_differ_in_training_are_refused_unless_they_never_train(make_batch, name):
    network = mlp(3, STOCHASTIC[name]())
    with pytest.raises(
        SpecError, match="expected outputs that depend on one observation alone, got the layer"
    ) as refused:
        adopt(network)
    assert "pass evaluation_mode=True to run the model with training=False" in str(refused.value)
    with pytest.raises(
        SpecError,
        match=r"tensorflow\.adopt critic: expected outputs that depend on one observation",
    ):
        adopt(mlp(), network)
    policy, batch = adopt(network, evaluation_mode=True), make_batch()
    statistics = [
        variable for variable in network.non_trainable_variables if "moving" in variable.path
    ]
    before = [variable.numpy() for variable in statistics]
    first, again = (gradient(policy, batch) for _ in range(2))
    for parameter, value in first.items():
        np.testing.assert_array_equal(value, again[parameter], err_msg=parameter)
    for variable, value in zip(statistics, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)


@pytest.mark.parametrize(
    "layer",
    [layers.Dropout(0.0, dtype="float64"), normal(trainable=False)],
    ids=["rate 0", "frozen"],
)
def test_layers_that_are_the_same_in_training_are_taken(make_batch, layer):
    assert gradient(adopt(mlp(3, layer)), make_batch())


class Net(keras.Model):
    """Two layers with something between them, a seed and a variable that is not trained."""

    def __init__(self, between):
        super().__init__(dtype="float64")
        keras.utils.set_random_seed(0)
        self.first, self.second = dense(5, "tanh"), dense(3)
        self.between = between
        self.seed = keras.random.SeedGenerator(0)
        self.state = self.add_weight(shape=(), name="state", dtype="float64", trainable=False)
        self(np.zeros((2, 3)))

    def call(self, observations):
        return self.second(self.between(self, self.first(observations)))


def kept_state(net, hidden):
    net.state.assign_add(keras.ops.mean(hidden))
    return hidden + net.state


def counted(net, hidden):
    net.state.assign_add(1.0)
    return hidden


REPEAT, ALONE = (
    "expected the same outputs whenever",
    "expected outputs that depend on one observation alone",
)
STAY = r"keras net.*: expected variables that stay as they are, got one that a call changes, net.*/state"


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda net, hidden: keras.random.dropout(hidden, 0.5, seed=net.seed), REPEAT),
        (lambda net, hidden: tf.nn.dropout(hidden, 0.5), REPEAT),
        (lambda net, hidden: hidden - keras.ops.mean(hidden, 0), ALONE),
        (lambda net, hidden: keras.ops.cumsum(hidden, 0), ALONE),
        (kept_state, REPEAT),
        (counted, STAY),
    ],
    ids=["keras dropout", "tf dropout", "over the batch", "as a sequence", "state", "counter"],
)
def test_models_that_are_no_function_of_one_observation_are_refused(make_batch, between, words):
    network = Net(between)
    before = [variable.numpy() for variable in network.non_trainable_variables]
    policy = adopt(network, evaluation_mode=True)
    for use in (
        lambda: gradient(policy, make_batch()),
        lambda: policy.evaluate(make_batch(), ("log_prob",)),
    ):
        with pytest.raises(SpecError, match=words):
            use()
    assert before
    for variable, value in zip(network.non_trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize("make", [layers.LSTM, layers.GRU])
def test_layers_that_keep_a_state_are_refused_in_every_mode(make):
    cell = make(4, stateful=True, dtype="float64", name="cell")
    network = keras.Sequential(
        [keras.Input(batch_shape=(6, 4, 2), dtype="float64"), cell, dense(3)]
    )
    for mode in (False, True):
        with pytest.raises(
            SpecError,
            match=r"got the layer cell, which keeps a state between calls; make it with stateful=False",
        ):
            adopt(network, evaluation_mode=mode)


def test_a_failure_on_observations_names_the_model_and_what_it_was_given(make_batch):
    policy = adopt(mlp())
    gradient(policy, make_batch())
    words = (
        r"keras sequential.*: expected a network that takes observations \[B, {}\] {}, got {} \({}"
    )
    with pytest.raises(
        BatchError, match=words.format(4, "float64", "ValueError", "Input 0 .* expected axis -1")
    ) as refused:
        gradient(policy, make_batch(observations=np.zeros((6, 4)), final_observations=None))
    assert isinstance(refused.value.__cause__, ValueError)
    tokens = keras.Input((3,), dtype="int64")
    embedded = layers.Flatten(dtype="float64")(layers.Embedding(4, 2, dtype="float64")(tokens))
    policy = adopt(keras.Model(tokens, dense(3)(embedded)))
    gradient(policy, make_batch(observations=np.ones((6, 3), int), final_observations=None))
    with pytest.raises(
        BatchError,
        match=r"takes observations \[B, 3\] int64, got InvalidArgumentError \(indices\[0,0\] = 7 is not in",
    ):
        gradient(policy, make_batch(observations=np.full((6, 3), 7), final_observations=None))


def test_variables_that_are_no_longer_those_adopted_are_refused(make_batch):
    network = mlp()
    policy = adopt(network)
    network.pop()
    network.add(dense(3, name="third"))
    with pytest.raises(
        ParameterError,
        match=r"expected the variables that it was adopted with, got another second/kernel or none; adopt",
    ):
        gradient(policy, make_batch())


def test_frozen_variables_are_left_out_and_stay_to_the_bit(make_batch):
    network = mlp()
    whole = gradient(adopt(network), make_batch())
    network.layers[0].trainable = False
    before = network.layers[0].get_weights()
    policy = adopt(network)
    assert list(policy.parameters()) == ["second/kernel", "second/bias"]
    found = pg.gradient(policy, REINFORCE, make_batch())
    for name, value in found.numpy().items():
        np.testing.assert_array_equal(value, whole[name])
    pg.optimizer("adam").step(policy, found)
    for value, old in zip(network.layers[0].get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_variables_that_network_and_critic_share_are_trained_once_with_both_gradients(make_batch):
    network, critic = mlp(), mlp(1)  # both start with the same first layer
    np.testing.assert_array_equal(network.get_weights()[0], critic.get_weights()[0])
    apart = gradient(adopt(network, critic), make_batch(), PPO)
    tied = mlp(1, first=network.layers[0])
    tied.layers[1].set_weights(critic.layers[1].get_weights())
    policy = adopt(network, tied)
    assert list(policy.parameters()) == [
        "first/kernel", "first/bias", "second/kernel", "second/bias", "critic.second/kernel", "critic.second/bias",
    ]  # fmt: skip
    for name, value in gradient(policy, make_batch(), PPO).items():
        expected = apart[name] + (apart[f"critic.{name}"] if name.startswith("first") else 0)
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-15, err_msg=name)


def test_a_compiled_model_has_the_same_gradient_whatever_the_padding(make_batch):
    network, critic = mlp(), mlp(1, seed=1)
    graph, compiled = (adopt(network, critic, compiled=compiled) for compiled in (False, True))
    for batch in (make_batch(), make_batch().steps(range(5))):  # padded to 6 steps as well
        expected = gradient(graph, batch, PPO)
        for name, value in gradient(compiled, batch, PPO).items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-11, atol=1e-14, err_msg=name)


@pytest.mark.parametrize("make", [tf.constant, tf.Variable], ids=["constant", "variable"])
def test_tensors_are_copied(make_batch, make):
    values = make(np.ones((6, 3)))
    batch = make_batch(observations=values)
    if make is tf.Variable:
        values.assign(np.zeros((6, 3)))
    np.testing.assert_array_equal(batch.observations, 1.0)


def test_tensors_of_a_graph_are_refused(make_batch):
    def traced(observations):
        with pytest.raises(
            BatchError,
            match=r"Batch\.observations: expected an array that NumPy can read, got SymbolicTensor",
        ):
            make_batch(observations=observations)
        return observations

    tf.function(traced, autograph=False)(np.ones((6, 3)))


@pytest.mark.parametrize("device", ["", "nonsense", "cpu:7", "meta"])
def test_a_device_that_is_not_here_is_refused(device):
    words = r"tensorflow\.policy device: expected one of cpu:0.*, got .*; choose one that TensorFlow has here"
    with pytest.raises(SpecError, match=words):
        pg.policy(pg.PolicySpec(pg.Linear(2), HEAD), backend="tensorflow", device=device)


ELSEWHERE = """
import sys, tensorflow

def kerases():
    return {name for name in sys.modules if name.partition(".")[0] in ("keras", "tf_keras")}

before = kerases()
import numpy as np, pgcore as pg
policy = pg.policy(pg.PolicySpec(pg.MLP(3, (4,)), pg.Categorical(2), "shared"), backend="tensorflow")
batch = pg.Batch(observations=np.ones((2, 3)), actions=[0, 1], rewards=[1, 2], episode_lengths=[2], terminated=[True])
pg.optimizer("adam").step(policy, pg.gradient(policy, pg.estimator("actor_critic"), batch))
policy.episode_scores(batch), policy.fisher_vector_product(batch, np.ones(policy.size))
print(sorted(kerases() - before))
import keras
try:
    pg.backend(policy.backend).adopt(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), head=pg.Categorical(2))
except pg.errors.SpecError as error:
    print(error)
"""


def test_only_adopting_touches_keras_which_must_be_on_tensorflow():
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    command = [sys.executable, "-W", "error", "-c", ELSEWHERE]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "jax"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    imported, message = done.stdout.splitlines()
    assert imported == "[]"
    assert message == (
        "tensorflow.adopt module: expected Keras on TensorFlow, got Keras on jax, whose variables TensorFlow cannot differentiate; "
        "set KERAS_BACKEND=tensorflow before Keras is imported, or adopt the model where it is"
    )
