"""What is behind a gradient, on every usable backend against the reference: quantities, losses, metrics.

A gradient alone does not see all of it: log(p + 1e-8) in an entropy moves its derivative in second order only, and a wrong
constant not at all.
"""

# pyright: standard
from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import NonFiniteError
from pgcore.xp.numpy import host
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.reference import reference
from pgcore_check.results import gradient_row, loss_row, quantity_ratios
from pgcore_check.suite.material import ESTIMATORS, HEADS
from pgcore_check.testing import parametrize_backends

__all__: list[str] = []

pytestmark = parametrize_backends()


# Every head with three networks, every network with five heads or more; dtypes take turns, and each occurs with every head and network.
COMBINATIONS = [
    (head, network, ("float64", "float32")[(row + column) % 2])
    for row, head in enumerate(HEADS)
    for column, network in enumerate(NETWORKS)
    if (row + 2 * column) % len(NETWORKS) < 3
]


@pytest.mark.parametrize(("head", "network", "dtype"), COMBINATIONS)
def test_quantities_are_within_their_running_error_bounds(backend, head, network, dtype):
    critic = "shared" if network in ("tanh", "relu") else "separate"
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS[network], HEADS[head], critic), backend, dtype, seed=20
    )
    names = ("value", *sorted(HEADS[head].quantities))
    ratios = quantity_ratios(policy, batch, policy.evaluate(batch, names))
    assert ratios.keys() == set(names)
    assert max(ratios.values()) <= FACTOR, ratios


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("network", NETWORKS)
def test_final_values_are_the_critics_of_the_final_observations(backend, network, dtype):
    spec = pg.PolicySpec(NETWORKS[network], HEADS["shared"], "separate")
    policy, batch = make_case(spec, backend, dtype, seed=23)
    actual = policy.evaluate(batch, ("final_value",))["final_value"]
    assert (actual[batch.terminated] == 0.0).all()
    assert batch.final_observations is not None
    ends = pg.Batch(
        observations=batch.final_observations,
        actions=batch.actions[: batch.num_episodes],
        rewards=np.zeros(batch.num_episodes),
        episode_lengths=np.ones(batch.num_episodes, int),
        terminated=np.ones(batch.num_episodes, bool),
    )
    # A terminated episode's value is not read; the reference's stands in for it.
    exact = reference.quantities(spec, policy.parameters(), ends, ("value",))["value"]
    filled = np.where(batch.terminated, exact.astype(np.float64), actual)
    assert quantity_ratios(policy, ends, {"value": filled})["value"] <= FACTOR
    assert np.abs(actual[~batch.terminated]).min() > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_a_description_has_the_quantities_that_are_evaluated(backend, head):
    head_ = HEADS[head]
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["relu"], head_, "none"), backend, "float64", seed=24
    )
    described = policy.evaluate(batch, ("distribution",))["distribution"]
    assert described.shape == (batch.num_steps, head_.width)
    reference_ = batch.extras["reference"]
    formulas = {
        "log_prob": lambda: head_.log_prob(host, described, batch.actions),
        "entropy": lambda: head_.entropy(host, described),
        "kl": lambda: head_.kl(host, reference_, described),
        "reverse_kl": lambda: head_.kl(host, described, reference_),
    }
    names = [name for name in formulas if name in head_.quantities]
    actual = policy.evaluate(batch, tuple(names))
    for name in names:
        np.testing.assert_allclose(
            actual[name], formulas[name](), rtol=1e-12, atol=1e-13, err_msg=name
        )


def test_metrics_are_means_over_the_real_steps(backend):
    spec = pg.PolicySpec(NETWORKS["linear"], HEADS["hot"], "separate")
    policy, batch = make_case(spec, backend, "float64", seed=25, steps=40)
    quantities = policy.evaluate(batch, ("log_prob", "value", "entropy", "kl"))
    for name in ("ppo", "ppo kl", "gae", "value baseline"):
        estimator = ESTIMATORS[name]
        signals = pg.signals(policy, estimator, batch)
        padded = batch.pad(48)
        gradient = pg.gradient(
            policy, estimator, padded, signals=pg.signals(policy, estimator, padded)
        )
        actual = gradient.metrics
        expected = {"entropy": quantities["entropy"].mean()} if "entropy" in actual else {}
        if "value_loss" in actual:
            error = signals["return_"] - quantities["value"]
            expected["value_loss"] = (error**2).mean() / 2
            expected["explained_variance"] = 1 - error.var() / signals["return_"].var()
        if "approx_kl" in actual:
            ratio = np.exp(quantities["log_prob"] - signals["old_log_prob"])
            expected["approx_kl"] = (ratio - 1 - np.log(ratio)).mean()
            expected["effective_sample_size"] = ratio.sum() ** 2 / (ratio**2).sum()
            expected |= {"ratio_min": ratio.min(), "ratio_max": ratio.max()}
            advantage = estimator.finalise({"advantage": signals["advantage"]}, None)["advantage"]
            if name == "ppo":
                clipped = np.where(advantage >= 0, ratio > 1.2, ratio < 0.8)
                expected["clip_fraction"] = clipped.mean()
        if "kl" in actual:
            expected["kl"] = quantities["kl"].mean()
        expected["loss"] = pg.gradient(policy, estimator, batch, signals=signals).loss
        expected["gradient_norm"] = np.sqrt(
            sum((value**2).sum() for value in gradient.numpy().values())
        )
        assert actual == pytest.approx(expected, rel=1e-10), name
    assert 0 < pg.gradient(policy, ESTIMATORS["ppo"], batch).metrics["clip_fraction"] < 1


@pytest.mark.parametrize(
    "name", ["reinforce", "full return", "value baseline", "td", "n-step", "gae", "ppo", "ppo kl"]
)
@pytest.mark.parametrize("head", ["hot", "per-state"])
def test_one_step_is_a_batch_too(backend, head, name):
    spec = pg.PolicySpec(NETWORKS["sigmoid"], HEADS[head], "shared")
    policy, batch = make_case(spec, backend, "float64", seed=26)
    for step in ([0], [batch.num_steps - 1]):
        one = batch.steps(step)
        assert one.num_episodes == 1
        signals = pg.signals(policy, ESTIMATORS[name], one)
        actual = pg.gradient(policy, ESTIMATORS[name], one, signals=signals)
        assert gradient_row(policy, ESTIMATORS[name], one, signals, actual.numpy()).agrees
        assert loss_row(policy, ESTIMATORS[name], one, signals, actual.loss).agrees


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("float64", 1.0),
        ("float64", 1e200),
        ("float64", 1e-200),
        ("float32", 1.0),
        ("float32", 1e25),
        ("float32", 1e-25),
    ],
)
def test_the_norm_is_that_of_all_parameters_even_where_its_square_has_no_float(
    backend, dtype, scale
):
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["hot"], "none")
    policy, batch = make_case(spec, backend, dtype, seed=28)
    fields = (
        "observations",
        "actions",
        "episode_lengths",
        "terminated",
        "final_observations",
        "action_mask",
    )
    scaled = pg.Batch(
        **{name: getattr(batch, name) for name in fields}, rewards=scale * batch.rewards
    )
    gradient = pg.gradient(policy, ESTIMATORS["reinforce"], scaled)
    exact = np.sqrt(
        sum((value.astype(np.longdouble) ** 2).sum() for value in gradient.numpy().values())
    )
    assert gradient.norm() == pytest.approx(
        float(exact), rel=32 * float(np.finfo(dtype).eps), abs=0.0
    )
    assert gradient.norm() > 1e-3 * scale
    before = policy.parameters()
    pg.optimizer("sgd", learning_rate=1.0, max_grad_norm=0.5 * scale).step(policy, gradient)
    moved = [
        value.astype(np.longdouble) - before[name] for name, value in policy.parameters().items()
    ]
    if scale >= 1.0:  # else the step vanishes beside the parameters
        length = float(np.sqrt(sum((value**2).sum() for value in moved)))
        assert length == pytest.approx(min(float(exact), 0.5 * scale), rel=1e-5)


def test_the_norm_of_nothing_is_zero(backend):
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS["hot"], "none"), backend, "float64", seed=29
    )
    fields = (
        "observations",
        "actions",
        "episode_lengths",
        "terminated",
        "final_observations",
        "action_mask",
    )
    nothing = pg.Batch(
        **{name: getattr(batch, name) for name in fields}, rewards=np.zeros(batch.num_steps)
    )
    assert pg.gradient(policy, ESTIMATORS["reinforce"], nothing).norm() == 0.0


def test_a_step_that_overflows_is_named_wherever_it_is(backend):
    spec = pg.PolicySpec(pg.Table(2), HEADS["categorical"], "separate")
    policy = pg.policy(spec, backend=backend, dtype="float64")
    for steps, bad in ((700, 3), (700, 650), (1500, 1499)):
        old = np.full(steps, -1.0)
        old[bad] = -2000.0
        batch = pg.Batch(
            observations=np.arange(steps) % 2,
            actions=np.arange(steps) % 3,
            rewards=-np.ones(steps),
            episode_lengths=[steps],
            terminated=[True],
            log_probs=old,
        )
        before = policy.parameters()
        with pytest.raises(NonFiniteError, match=f"log_prob = -?inf at step {bad};"):
            pg.gradient(policy, pg.estimator("ppo", gamma=0.0, normalise="none"), batch)
        for name, value in policy.parameters().items():
            np.testing.assert_array_equal(value, before[name])
