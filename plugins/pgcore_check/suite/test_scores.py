"""Scores and Fisher-vector products on every usable backend: within their bounds of the reference, and by the identities that tie them.

Tests share a policy and a batch, for which backends compile once.
"""

# pyright: standard
from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest

import pgcore as pg
from pgcore_check.bounds.agreement import FACTOR, allowance, largest
from pgcore_check.bounds.running_error import bounded_in
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.reference import reference
from pgcore_check.results import quantity_ratios
from pgcore_check.suite.material import ESTIMATORS, HEADS, flat
from pgcore_check.testing import parametrize_backends

__all__: list[str] = []

pytestmark = parametrize_backends()


# Every head with three networks, one of them in float32, which takes turns; each dtype occurs with every network.
COMBINATIONS = [
    (head, network, "float32" if (row + place) % 3 == 0 else "float64")
    for row, head in enumerate(HEADS)
    for place, network in enumerate(
        network for column, network in enumerate(NETWORKS) if (row + 2 * column) % len(NETWORKS) < 3
    )
]
# Identities hold to rounding, which is looked at in float64.
EXACT = [(head, network) for head, network, dtype in COMBINATIONS if dtype == "float64"]


@functools.cache
def case(head, network, backend, dtype="float64"):
    """Return a policy and a batch, which no test changes."""
    critic = "shared" if network == "sigmoid" else "separate"
    spec = pg.PolicySpec(NETWORKS[network], HEADS[head], critic)
    return make_case(spec, backend, dtype, seed=21)


def within(actual, form, *inputs, dtype):
    """Return how far a result is from one of the reference's functions, in units of the bound."""
    exact, bound = form(*inputs), form(*inputs, lift=bounded_in(np.dtype(dtype)))
    return largest(actual, exact, allowance(bound, np.dtype(dtype)), np.dtype(dtype))[0]


@pytest.mark.parametrize(("head", "network", "dtype"), COMBINATIONS)
def test_scores_and_fisher_products_are_within_their_running_error_bounds(
    backend, head, network, dtype
):
    policy, batch = case(head, network, backend, dtype)
    # One step of padding makes it the size to which backends that compile pad it.
    batch = batch.pad(24)
    rng = np.random.default_rng(21)
    weights = rng.standard_normal(batch.num_steps)
    inputs = (policy.spec, policy.parameters(), batch)
    actual = policy.episode_scores(batch, weights)
    assert within(actual, reference.episode_scores, *inputs, weights, dtype=dtype) <= FACTOR
    unweighted = policy.episode_scores(batch)
    assert within(unweighted, reference.episode_scores, *inputs, dtype=dtype) <= FACTOR
    vector = rng.standard_normal(actual.shape[1])
    product = policy.fisher_vector_product(batch, vector)
    assert within(product, reference.fisher_vector_product, *inputs, vector, dtype=dtype) <= FACTOR


@pytest.mark.parametrize("seed", [2, 4, 11])
def test_fisher_products_of_a_few_steps_are_within_their_running_error_bounds(backend, seed):
    """Initial policies, whose KL differentiated twice in float64 departs by 10 to 26 times u e, where 4 is allowed."""
    spec = pg.PolicySpec(pg.MLP(4, (16,), "tanh"), pg.Categorical(2))
    policy = pg.policy(spec, backend=backend, seed=seed, dtype="float64")
    batch = pg.Batch(
        observations=np.random.default_rng(seed).standard_normal((5, 4)),
        actions=np.zeros(5, int),
        rewards=np.zeros(5),
        episode_lengths=[3, 2],
        terminated=[True, True],
    )
    inputs = (spec, policy.parameters(), batch)
    vector = np.random.default_rng(1).standard_normal(
        sum(value.size for value in policy.parameters().values())
    )
    product = policy.fisher_vector_product(batch, vector)
    assert (
        within(product, reference.fisher_vector_product, *inputs, vector, dtype="float64") <= FACTOR
    )


@pytest.mark.parametrize(
    ("head", "dtype"),
    [*((head, "float64") for head in HEADS), ("categorical", "float32"), ("per-state", "float32")],
)
def test_many_steps_are_what_a_few_are(backend, head, dtype):
    """Longer than any block that a backend may work in, with episodes that begin and end inside one and some that cross it."""
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS[head], "separate")
    policy, batch = make_case(spec, backend, dtype, seed=27, steps=1500)
    names = ("value", *sorted(HEADS[head].quantities))
    quantities = policy.evaluate(batch, names)
    ratios = quantity_ratios(policy, batch, quantities)
    assert max(ratios.values()) <= FACTOR, ratios
    inputs = (spec, policy.parameters(), batch)
    rng = np.random.default_rng(27)
    weights = rng.standard_normal(batch.num_steps)
    actual = policy.episode_scores(batch, weights)
    assert within(actual, reference.episode_scores, *inputs, weights, dtype=dtype) <= FACTOR
    vector = rng.standard_normal(actual.shape[1])
    product = policy.fisher_vector_product(batch, vector)
    assert within(product, reference.fisher_vector_product, *inputs, vector, dtype=dtype) <= FACTOR
    one_step_each = batch.steps(slice(None))
    final = policy.evaluate(one_step_each, ("final_value",))["final_value"]
    following = quantities["value"]
    cut = np.setdiff1d(np.arange(batch.num_steps), batch.episode_ends)
    np.testing.assert_allclose(
        final[cut], following[cut + 1], rtol=64 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps
    )


@pytest.mark.parametrize(("head", "network"), dict(EXACT).items())
def test_a_fisher_product_is_symmetric_and_sees_no_padding(backend, head, network):
    policy, batch = case(head, network, backend)
    rng = np.random.default_rng(22)
    left, right = rng.standard_normal((2, policy.episode_scores(batch).shape[1]))
    product = policy.fisher_vector_product(batch, right)
    assert left @ product == pytest.approx(
        right @ policy.fisher_vector_product(batch, left), rel=1e-12
    )
    np.testing.assert_allclose(
        policy.fisher_vector_product(batch.pad(40), right), product, rtol=1e-12, atol=1e-15
    )
    names = list(policy.spec.parameter_shapes)
    owner = np.repeat(names, [policy.parameters()[name].size for name in names])
    of_critic = np.array([name.startswith("critic") for name in owner])
    assert of_critic.any()
    assert not product[of_critic].any()


@pytest.mark.parametrize(("head", "network"), EXACT)
def test_scores_weighed_by_returns_are_the_reinforce_gradient(backend, head, network):
    policy, batch = case(head, network, backend)
    if HEADS[head].action_values:
        assert not policy.episode_scores(batch).any()
        return
    estimator = ESTIMATORS["reinforce"]
    advantage = pg.signals(policy, estimator, batch)["advantage"]
    scores = policy.episode_scores(batch, advantage)
    assert scores.shape == (
        batch.num_episodes,
        sum(value.size for value in policy.parameters().values()),
    )
    expected = flat(pg.gradient(policy, estimator, batch).numpy())
    np.testing.assert_allclose(
        -scores.mean(axis=0), expected, rtol=0, atol=1e-13 * np.abs(expected).max()
    )
    # An episode's scores are its own, wherever it stands.
    backward = policy.episode_scores(batch.episodes([*reversed(range(batch.num_episodes))]))
    np.testing.assert_allclose(policy.episode_scores(batch), backward[::-1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("head", "network"), EXACT)
def test_fisher_vector_product_is_the_mean_outer_product_of_scores(backend, head, network):
    policy, batch = case(head, network, backend)
    parts = [
        np.einsum("b,bi,bj->ij", probability, scores, scores) / batch.num_steps
        for probability, scores in outcomes(policy, batch)
    ]
    fisher = np.sum(parts, axis=0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        vector = rng.standard_normal(len(fisher))
        expected = fisher @ vector
        actual = policy.fisher_vector_product(batch, vector)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        assert vector @ actual >= 0


def outcomes(policy, batch):
    """Yield probabilities [B] and scores [B, D] whose weighted sum over outcomes is the exact expectation at each step."""
    lengths, ended = np.ones(batch.num_steps, int), np.ones(batch.num_steps, bool)
    fields = {
        "observations": batch.observations,
        "rewards": batch.rewards,
        "episode_lengths": lengths,
        "terminated": ended,
    }
    described = policy.evaluate(batch, ("distribution",))["distribution"]
    if policy.spec.head.discrete:
        head, columns = policy.spec.head, np.arange(policy.spec.head.width)
        for picked in itertools.product(*(columns[block] for block in head.choices)):
            # Where the action is masked any other will do: its weight is 0.
            probability = np.exp(described[:, list(picked)].sum(axis=1))
            action = [
                list(columns[block]).index(column)
                for block, column in zip(head.choices, picked, strict=True)
            ]
            possible = probability > 0
            actions = (
                np.where(possible, action[0], batch.actions)
                if head.enumerable
                else np.where(possible[:, None], action, batch.actions)
            )
            one = pg.Batch(**fields, actions=actions, action_mask=batch.action_mask)
            yield probability, policy.episode_scores(one)
        return
    # Products of two scores are of fourth degree in each z, for which three Gauss-Hermite nodes a dimension are exact.
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    n = policy.spec.head.n
    for picked in np.ndindex(*[3] * n):
        z, probability = (
            nodes[list(picked)],
            np.prod(weights[list(picked)] / math.sqrt(2 * math.pi)),
        )
        actions = described[:, :n] + np.exp(described[:, n:]) * z
        yield (
            np.full(batch.num_steps, probability),
            policy.episode_scores(pg.Batch(**fields, actions=actions)),
        )


@pytest.mark.parametrize(("head", "network"), EXACT)
def test_expected_score_is_zero(backend, head, network):
    expected = sum(
        probability[:, None] * scores
        for probability, scores in outcomes(*case(head, network, backend))
    )
    np.testing.assert_allclose(expected, np.zeros_like(expected), atol=1e-13)


def test_gradient_of_the_per_component_baseline_combines_scores(backend):
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["categorical"], "none"), backend, "float64", seed=11
    )
    estimator = pg.estimator(
        "reinforce", gamma=0.9, baseline="optimal_per_component", reward_to_go=False
    )
    g = policy.episode_scores(batch)
    returns = np.array(
        [
            sum(0.9**t * reward for t, reward in enumerate(batch.rewards[start : start + length]))
            for start, length in zip(batch.episode_starts, batch.episode_lengths, strict=True)
        ]
    )
    expected = np.zeros(g.shape[1])
    for episode in range(len(g)):
        others = np.arange(len(g)) != episode
        baseline = (g[others] ** 2 * returns[others, None]).sum(axis=0) / (g[others] ** 2).sum(
            axis=0
        )
        expected -= g[episode] * (returns[episode] - baseline) / len(g)
    actual = flat(pg.gradient(policy, estimator, batch).numpy())
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
