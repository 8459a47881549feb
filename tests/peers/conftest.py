"""Other libraries' losses beside pgcore's, on policies that are tables.

A table has a row of logits for each step, so that the gradient in its parameters is the gradient in
every step's logits, and hides nothing in a sum.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import pgcore as pg


class Rows(NamedTuple):
    """A loss and its derivatives in each step's logits, [B, A], and value, [B], where there is one."""

    loss: float
    logits: np.ndarray
    values: np.ndarray | None


class Steps(NamedTuple):
    """[B, A] logits and [B] values of the current policy and critic, and the fields of a batch."""

    logits: np.ndarray
    values: np.ndarray
    fields: dict[str, Any]


def table_of(logits, values=None):
    """Return a policy whose step t has the logits [t] and the value [t]."""
    critic = "none" if values is None else "separate"
    spec = pg.PolicySpec(pg.Table(len(logits)), pg.Categorical(logits.shape[1]), critic)
    policy = pg.policy(spec, backend="numpy", dtype="float64")
    critics = {} if values is None else {"critic.table": np.reshape(values, (-1, 1))}
    policy.load({"network.table": logits} | critics)
    return policy


def batch_of(fields):
    """Return a batch whose step t observes t."""
    return pg.Batch(observations=np.arange(len(fields["actions"])), **fields)


def rows_of(estimator, logits, fields, values=None, totals=None):
    """Return pgcore's `Rows` of one batch, whose step t observes t."""
    policy, batch = table_of(logits, values), batch_of(fields)
    signals = pg.signals(policy, estimator, batch, totals=totals)
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    arrays = gradient.numpy()
    critic = arrays["critic.table"][:, 0] if values is not None else None
    return Rows(gradient.loss, arrays["network.table"], critic)


def assert_equal(actual, expected):
    """Assert that two arrays agree to 1e-12 of the largest entry, which is not 0."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype == np.float64
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * scale)


@pytest.fixture
def torch_float64():
    """PyTorch in double precision, where a library makes tensors of the default dtype."""
    torch = pytest.importorskip("torch")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def rows():
    """See `rows_of`."""
    return rows_of


@pytest.fixture
def agree():
    """See `assert_equal`."""
    return assert_equal


@pytest.fixture
def batch():
    """See `batch_of`."""
    return batch_of


@pytest.fixture
def table():
    """See `table_of`."""
    return table_of


@pytest.fixture
def steps():
    """Return what no term of a loss is blind to, as `Steps`.

    B is 14, in episodes of 5, 1, 4, 2 and 2 steps, of which the second and the last are truncated;
    there are 5 actions. Old log-probabilities differ from the current ones by up to 1 nat.
    """
    rng = np.random.default_rng(11)
    lengths = np.array([5, 1, 4, 2, 2])
    count = lengths.sum()
    logits = rng.standard_normal((count, 5))
    actions = rng.integers(0, 5, count)
    log_pi = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    fields = {
        "actions": actions,
        "rewards": rng.standard_normal(count),
        "episode_lengths": lengths,
        "terminated": np.array([True, False, True, True, False]),
        "log_probs": log_pi[np.arange(count), actions] + rng.uniform(-1, 1, count),
        "final_values": np.array([0.0, 0.7, 0.0, 0.0, -0.4]),
        "extras": {"advantages": rng.standard_normal(count), "weights": rng.uniform(0, 2, count)},
    }
    return Steps(logits, rng.standard_normal(count), fields)
