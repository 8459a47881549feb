import numpy as np
import pytest

from pgcore.xp.namespace import ArrayNamespace
from pgcore.xp.numpy import HostNamespace, host

FUNCTIONS = sorted(name for name in vars(ArrayNamespace) if not name.startswith("_"))
X = np.array([[-2.0, 0.5, 3.0], [1.0, 1.0, -1.0]])


def test_the_host_has_every_function_of_the_namespace_and_no_other():
    assert sorted(name for name in vars(HostNamespace) if not name.startswith("_")) == FUNCTIONS


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.longdouble])
def test_functions_keep_the_dtype_beside_plain_numbers(dtype):
    x = X.astype(dtype)
    found = [
        host.clip(x, -1.0, 1.0),
        host.where(x > 0, x, 0.0),
        host.where(x > 0, 0.0, x),
        host.sum(x, 1),
        host.log_softmax(x, 1),
        host.full_like(x, 0.1),
        host.concatenate((x, x), 0),
        host.broadcast_to(x[0], x),
        host.take_last(x, np.array([0, 1])),
        host.maximum(x, 0.0),
        host.minimum(x, 0.0),
        host.matmul(x, x.T),
        host.take_rows(x, np.array([1, 0, 1])),
        *(
            function(host.abs(x))
            for function in (host.exp, host.log, host.sqrt, host.tanh, host.sigmoid, host.relu)
        ),
    ]
    assert {each.dtype for each in found} == {np.dtype(dtype)}


def test_values_are_those_of_the_definitions():
    assert host.clip(X, -1.0, 1.0).tolist() == [[-1.0, 0.5, 1.0], [1.0, 1.0, -1.0]]
    assert host.sum(X, 0).tolist() == [-1.0, 1.5, 2.0]
    assert host.concatenate((X, X[:, :1]), 1).shape == (2, 4)
    assert host.broadcast_to(np.array([1.0, 2.0, 3.0]), X).tolist() == [[1.0, 2.0, 3.0]] * 2
    assert host.full_like(X, 0.1).tolist() == [[0.1] * 3] * 2
    assert host.take_last(X, np.array([2, 0])).tolist() == [3.0, 1.0]
    assert host.take_rows(X, np.array([1, 0, 1])).tolist() == X[[1, 0, 1]].tolist()
    assert host.matmul(X, X.T).tolist() == [[13.25, -4.5], [-4.5, 3.0]]
    np.testing.assert_allclose(np.exp(host.log_softmax(X, 0)).sum(axis=0), np.ones(3), rtol=1e-14)


def test_log_softmax_survives_large_numbers_and_keeps_minus_infinity():
    found = host.log_softmax(np.array([[1000.0, 1000.0, -np.inf], [-1e307, 0.0, 1e307]]), 1)
    assert found[0].tolist() == [-np.log(2.0), -np.log(2.0), -np.inf]
    assert found[1, 2] == 0.0


def test_activations_overflow_nowhere_and_keep_nan():
    x = np.array([-1e4, -40.0, 0.0, 40.0, 1e4])
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_allclose(host.sigmoid(x), [0.0, np.exp(-40.0), 0.5, 1.0, 1.0], rtol=1e-15)
    assert host.relu(x).tolist() == [0.0, 0.0, 0.0, 40.0, 1e4]
    assert all(
        np.isnan(function(np.array(np.nan))) for function in (host.relu, host.sigmoid, host.tanh)
    )
