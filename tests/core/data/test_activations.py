import importlib
from typing import Any

import numpy as np
import pytest

from pgcore.data.activations import Activation, Relu, Sigmoid, Tanh, activation
from pgcore.registry.registry import registry
from pgcore.xp.numpy import host

X = np.linspace(-3.0, 3.0, 13)


@pytest.mark.parametrize("name", registry().names("activations"))
def test_a_slope_is_the_derivative_of_the_value(name):
    function, size = activation(name), 1e-6
    assert isinstance(function, Activation)
    away = X[X != 0.0]
    quotient = (function.value(host, away + size) - function.value(host, away - size)) / (
        2.0 * size
    )
    np.testing.assert_allclose(
        function.slope(host, away, function.value(host, away)), quotient, atol=1e-9
    )


def test_relu_has_slope_zero_at_zero():
    zero = np.zeros(1)
    assert Relu().slope(host, zero, Relu().value(host, zero)).tolist() == [0.0]


@pytest.mark.parametrize("cls", [Tanh, Relu, Sigmoid])
def test_built_in_activations_are_found_by_their_names(cls):
    assert activation(cls.name) == cls()
    assert cls().gain == np.sqrt(2.0)


@pytest.mark.parametrize("name", ["torch", "tensorflow", "jax"])
def test_frameworks_functions_have_the_hosts_values_and_the_declared_slopes(name):
    module = pytest.importorskip(f"pgcore_{name}.xp")
    xp, x = module.xp, np.array([[-60.0, -0.7, 0.0, 0.4, 60.0]], np.float32)
    for cls in (Tanh, Relu, Sigmoid):
        value, slope = differentiated(name, lambda native, cls=cls: cls().value(xp, native), x)
        np.testing.assert_allclose(value, cls().value(host, x), rtol=1e-6, atol=1e-30)
        np.testing.assert_allclose(
            slope, cls().slope(host, x, cls().value(host, x)), rtol=1e-6, atol=1e-7
        )


def differentiated(name, function, x):
    """Return an elementwise function's values and derivatives, by a framework."""
    if name == "torch":
        import torch

        native = torch.tensor(x, requires_grad=True)
        value = function(native)
        return value.detach().numpy(), torch.autograd.grad(value.sum(), native)[0].numpy()
    if name == "tensorflow":
        tf: Any = importlib.import_module("tensorflow")
        native = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(native)
            value = function(native)
        return value.numpy(), tape.gradient(value, native).numpy()
    import jax

    return np.asarray(function(x)), np.asarray(jax.grad(lambda native: function(native).sum())(x))
