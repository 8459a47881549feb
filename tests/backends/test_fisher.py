"""Fisher-vector products of heads that are nobody's built-in: a sum over actions, or a declared quadrature, on every framework."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import SpecError
from pgcore.xp.numpy import host
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants

HEADS = variants("heads")

frameworks = pytest.mark.parametrize("framework", ["torch", "jax", "tensorflow"])

N = 2
# Gauss-Laguerre nodes of |z|, on both sides: exact for the squares of its score, which is of degree 1.
NODES, WEIGHTS = np.polynomial.laguerre.laggauss(2)
SIDES, HALVES = np.concatenate([NODES, -NODES]), np.concatenate([WEIGHTS, WEIGHTS]) / 2
GRID = np.array(list(itertools.product(range(4), repeat=N)))


class Smooth(pg.Head):
    """Two independent Laplace distributions with learned log scales, and no points to sum over."""

    name = "laplace"
    discrete = False

    @property
    def outputs(self):
        return N

    @property
    def width(self):
        return 2 * N

    def initial_parameters(self):
        return {"log_scale": np.log([0.6, 1.7])}

    def distribution(self, xp, outputs, parameters, mask):
        return xp.concatenate((outputs, xp.broadcast_to(parameters["log_scale"], outputs)), 1)

    def log_prob(self, xp, distribution, actions):
        location, log_scale = distribution[:, :N], distribution[:, N:]
        return -xp.sum(xp.abs(actions - location) / xp.exp(log_scale) + log_scale, 1) - N * float(
            np.log(2.0)
        )

    def entropy(self, xp, distribution):
        return xp.sum(distribution[:, N:], 1) + N * float(1.0 + np.log(2.0))

    def kl(self, xp, reference, distribution):
        apart = xp.abs(reference[:, :N] - distribution[:, :N])
        before, after = xp.exp(reference[:, N:]), xp.exp(distribution[:, N:])
        moved = (before * xp.exp(-apart / before) + apart) / after
        return xp.sum(distribution[:, N:] - reference[:, N:] + moved - 1.0, 1)

    def sample(self, distribution, rng):
        return rng.laplace(distribution[:, :N], np.exp(distribution[:, N:]))

    def mode(self, distribution):
        return distribution[:, :N]

    def check_actions(self, actions, mask):
        assert actions.shape[1] == N
        assert mask is None


class Laplace(Smooth):
    """Declares its points."""

    def quadrature(self, distribution):
        location, scale = distribution[:, None, :N], np.exp(distribution[:, None, N:])
        weights = HALVES[GRID].prod(axis=1)
        return location + scale * SIDES[GRID], np.broadcast_to(
            weights, (len(distribution), len(weights))
        )


class Listed(pg.Categorical):
    """Says the log-probability again, so that the Fisher information is summed over actions."""

    def log_prob(self, xp, distribution, actions):
        return xp.take_last(distribution, actions)


class Joint(pg.Bernoulli):
    """The same of binary actions."""

    def log_prob(self, xp, distribution, actions):
        return super().log_prob(xp, distribution, actions)


def laplace_case(framework, head, dtype="float64"):
    """Return a policy of a linear network on 7 steps, which JAX pads to 8, and the batch."""
    pytest.importorskip(f"pgcore_{framework}.backend")
    policy = pg.policy(pg.PolicySpec(pg.Linear(3), head), backend=framework, dtype=dtype, seed=3)
    rng = np.random.default_rng(8)
    policy.load(
        {
            name: value + 0.3 * rng.standard_normal(value.shape)
            for name, value in policy.parameters().items()
        }
    )
    observations = rng.standard_normal((7, 3))
    actions, log_probs = policy.act(observations, pg.generator(0))
    batch = pg.Batch(
        observations=observations,
        actions=actions,
        rewards=rng.standard_normal(7),
        episode_lengths=[3, 4],
        terminated=[True, True],
        log_probs=log_probs,
    )
    return policy, batch


@frameworks
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_products_of_a_laplace_head_are_those_by_hand(framework, dtype):
    """Fisher information diag(1 / scale^2, 1) in (location, log scale), where the KL has no second derivative for autodiff."""
    policy, batch = laplace_case(framework, Laplace(), dtype)
    parameters = policy.parameters()
    rng = np.random.default_rng(5)
    direction = {name: rng.standard_normal(value.shape) for name, value in parameters.items()}
    x, scale = batch.observations, np.exp(parameters["head.log_scale"])
    moved = (
        (x @ direction["network.0.weight"] + direction["network.0.bias"])
        / scale**2
        / batch.num_steps
    )
    expected = {
        "network.0.weight": x.T @ moved,
        "network.0.bias": moved.sum(axis=0),
        "head.log_scale": direction["head.log_scale"],
    }
    product = policy.fisher_vector_product(
        batch, np.concatenate([direction[name].reshape(-1) for name in parameters])
    )
    np.testing.assert_allclose(
        product,
        np.concatenate([expected[name].reshape(-1) for name in parameters]),
        rtol=100 * np.finfo(dtype).eps,
    )


@frameworks
def test_a_laplace_policy_moves_by_what_trpo_allows(framework):
    policy, batch = laplace_case(framework, Laplace())
    before = policy.distribution(batch.observations)
    report = pg.optimizer("trpo", max_kl=0.01).step(
        policy, pg.gradient(policy, pg.estimator("reinforce"), batch)
    )
    assert report is not None
    assert report.accepted
    kl = policy.spec.head.kl(host, before, policy.distribution(batch.observations)).mean()
    assert 0.005 < kl <= 0.01


@frameworks
def test_a_head_of_continuous_actions_with_neither_is_refused(framework):
    policy, batch = laplace_case(framework, Smooth())
    with pytest.raises(
        SpecError, match=r"Smooth.*cannot be listed; write `fisher` beside `log_prob`, or declare"
    ):
        policy.fisher_vector_product(batch, np.ones(policy.size))


@frameworks
@pytest.mark.parametrize(
    ("listed", "name"), [(Listed(3, 0.7), "categorical"), (Joint(2, 1.6), "bernoulli")]
)
def test_a_sum_over_actions_is_the_closed_form(framework, listed, name):
    pytest.importorskip(f"pgcore_{framework}.backend")
    plain, batch = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS[name], "none"), "numpy", "float64", seed=12, padding=2
    )
    policy = pg.policy(
        pg.PolicySpec(NETWORKS["tanh"], listed, "none"), backend=framework, dtype="float64"
    )
    policy.load(plain.parameters())
    vector = np.random.default_rng(2).standard_normal(policy.size)
    expected = plain.fisher_vector_product(batch, vector)
    assert batch.action_mask is not None
    np.testing.assert_allclose(
        policy.fisher_vector_product(batch, vector),
        expected,
        rtol=0,
        atol=1e-13 * np.abs(expected).max(),
    )
