"""Bugs that a gradient does not show, or shows too faintly: the checks of values, scores and Fisher products must."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.heads.diagonal_gaussian import HALF_LOG_2PI
from pgcore_check.bounds.agreement import FACTOR, allowance, largest
from pgcore_check.bounds.running_error import bounded_in
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants
from pgcore_check.reference import reference
from pgcore_check.results import gradient_row, loss_row, quantity_ratios
from pgcore_numpy.discrete_kernels import CategoricalKernel
from pgcore_numpy.gaussian_kernels import GaussianKernel
from pgcore_numpy.gradient import NumpyGradient
from pgcore_numpy.networks import DenseNetwork
from pgcore_numpy.policy import NumpyPolicy

ESTIMATORS = variants("estimators")
HEADS = variants("heads")


def made(head, network="tanh"):
    return make_case(
        pg.PolicySpec(NETWORKS[network], HEADS[head], "separate"), "numpy", "float64", seed=31
    )


def changed(monkeypatch, owner, name, change):
    """Let a method return what `change` makes of its result."""
    original = getattr(owner, name)
    monkeypatch.setattr(
        owner, name, lambda *args, **kwargs: change(original(*args, **kwargs), *args)
    )


def ratios(head):
    policy, batch = made(head)
    names = ("value", *HEADS[head].quantities)
    return quantity_ratios(policy, batch, policy.evaluate(batch, names))


def fisher_ratio(head):
    policy, batch = made(head)
    vector = np.random.default_rng(0).standard_normal(
        sum(value.size for value in policy.parameters().values())
    )
    inputs = (policy.spec, policy.parameters(), batch, vector)
    bound = reference.fisher_vector_product(*inputs, lift=bounded_in(policy.dtype))
    found = policy.fisher_vector_product(batch, vector)
    exact = reference.fisher_vector_product(*inputs)
    return largest(found, exact, allowance(bound, policy.dtype), policy.dtype)[0]


def score_ratio(head):
    policy, batch = made(head)
    inputs = (policy.spec, policy.parameters(), batch)
    bound = reference.episode_scores(*inputs, lift=bounded_in(policy.dtype))
    exact = reference.episode_scores(*inputs)
    return largest(
        policy.episode_scores(batch), exact, allowance(bound, policy.dtype), policy.dtype
    )[0]


def test_nothing_is_reported_without_a_bug():
    for head in HEADS:
        assert max(*ratios(head).values(), fisher_ratio(head), score_ratio(head)) <= FACTOR


def test_a_logarithm_kept_from_zero_by_a_constant(monkeypatch):
    def plant(found, kernel, names, *_):
        if "entropy" in names:
            kernel.entropy = found["entropy"] = -np.add.reduce(kernel.pi * np.log(kernel.pi + 1e-8))
        return found

    changed(monkeypatch, CategoricalKernel, "quantities", plant)
    assert ratios("categorical")["entropy"] > 1e4


@pytest.mark.parametrize(
    ("head", "quantity", "plant"),
    [
        (
            "shared",
            "log_prob",
            lambda found: found["log_prob"] + 2 * (HALF_LOG_2PI - float(np.float32(HALF_LOG_2PI))),
        ),
        ("per-state", "entropy", lambda found: found["entropy"] - 1.0),
        ("fixed", "kl", lambda found: found["kl"] * (1 + 1e-12)),
        ("fixed", "log_prob", lambda found: found["log_prob"] / 2),
    ],
)
def test_a_wrong_constant(monkeypatch, head, quantity, plant):
    changed(
        monkeypatch,
        GaussianKernel,
        "quantities",
        lambda found, *_: dict(found) | ({quantity: plant(found)} if quantity in found else {}),
    )
    told = ratios(head)
    assert told.pop(quantity) > FACTOR
    assert max(told.values()) <= FACTOR


def test_the_other_direction_of_kl(monkeypatch):
    def plant(found, kernel, names, actions, described):
        if "kl" in names:
            possible = np.isfinite(described.T)
            log_pi, log_old = (
                np.where(possible, each, 0.0) for each in (kernel.log_pi, described.T)
            )
            found["kl"] = np.add.reduce(kernel.pi * (log_pi - log_old))
        return found

    changed(monkeypatch, CategoricalKernel, "quantities", plant)
    assert ratios("hot")["kl"] > 1e6


def test_a_masked_action_that_is_only_unlikely(monkeypatch):
    changed(
        monkeypatch,
        CategoricalKernel,
        "quantities",
        lambda found, *_: {name: np.maximum(value, -1e8) for name, value in found.items()},
    )
    assert ratios("categorical")["log_probs"] == float("inf")


def test_a_loss_that_is_a_plain_mean(monkeypatch):
    policy, batch = made("hot")
    estimator = ESTIMATORS["reinforce"]  # its reduction sums over steps
    signals = pg.signals(policy, estimator, batch)
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    assert loss_row(policy, estimator, batch, signals, gradient.loss).agrees
    changed(
        monkeypatch,
        NumpyGradient,
        "arguments",
        lambda named, _: named | {"advantage": named["advantage"] / 4.6},
    )
    assert loss_row(policy, estimator, batch, signals, gradient.loss).ratio > 1e6
    assert gradient_row(
        policy, estimator, batch, signals, gradient.numpy()
    ).agrees  # the gradient sees nothing of it


@pytest.mark.parametrize(
    ("owner", "method", "change", "head"),
    [
        (CategoricalKernel, "fisher", lambda d, kernel, *_: d * kernel.temperature, "hot"),
        (GaussianKernel, "fisher", lambda d, kernel, *_: d * kernel.std, "fixed"),
        (DenseNetwork, "tangent", lambda moved, *_: moved * 1.0000000001, "categorical"),
        (NumpyPolicy, "fisher_vector_product", lambda product, *_: product / 2, "per-state"),
    ],
)
def test_a_wrong_fisher_product(monkeypatch, owner, method, change, head):
    changed(monkeypatch, owner, method, change)
    assert fisher_ratio(head) > 1e2


def test_a_score_of_the_next_episode(monkeypatch):
    changed(
        monkeypatch, NumpyPolicy, "episode_scores", lambda scores, *_: np.roll(scores, 1, axis=0)
    )
    assert score_ratio("shared") > 1e6
