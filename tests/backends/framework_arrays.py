"""Makers of each framework's arrays; a test skips where the framework is absent."""

import numpy as np
import pytest


def numpy_array(x):
    return np.asarray(x)


def torch_array(x):
    return pytest.importorskip("torch").as_tensor(x)


def jax_array(x):
    return pytest.importorskip("jax.numpy").asarray(x)


def tensorflow_array(x):
    return pytest.importorskip("tensorflow").constant(x)


FRAMEWORKS = {"torch": torch_array, "jax": jax_array, "tensorflow": tensorflow_array}
ARRAYS = [numpy_array, *FRAMEWORKS.values()]
