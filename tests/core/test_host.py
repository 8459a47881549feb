import numpy as np
import pytest

from pgcore.host import HostNamespace, host
from pgcore.namespace import ArrayNamespace

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
        *(function(host.abs(x)) for function in (host.exp, host.log, host.sqrt)),
    ]
    assert {each.dtype for each in found} == {np.dtype(dtype)}


def test_values_are_those_of_the_definitions():
    assert host.clip(X, -1.0, 1.0).tolist() == [[-1.0, 0.5, 1.0], [1.0, 1.0, -1.0]]
    assert host.sum(X, 0).tolist() == [-1.0, 1.5, 2.0]
    assert host.concatenate((X, X[:, :1]), 1).shape == (2, 4)
    assert host.broadcast_to(np.array([1.0, 2.0, 3.0]), X).tolist() == [[1.0, 2.0, 3.0]] * 2
    assert host.full_like(X, 0.1).tolist() == [[0.1] * 3] * 2
    assert host.take_last(X, np.array([2, 0])).tolist() == [3.0, 1.0]
    np.testing.assert_allclose(np.exp(host.log_softmax(X, 0)).sum(axis=0), np.ones(3), rtol=1e-14)


def test_log_softmax_survives_large_numbers_and_keeps_minus_infinity():
    found = host.log_softmax(np.array([[1000.0, 1000.0, -np.inf], [-1e307, 0.0, 1e307]]), 1)
    assert found[0].tolist() == [-np.log(2.0), -np.log(2.0), -np.inf]
    assert found[1, 2] == 0.0
