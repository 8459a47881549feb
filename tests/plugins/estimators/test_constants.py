"""What is held constant stays constant: signals and actions take no part in the derivative, and it shows where they do."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import pgcore as pg
from pgcore.interfaces.surrogate import Surrogate
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants
from pgcore_check.reference import reference
from pgcore_check.reference.differences import complex_step, random_direction

ESTIMATORS = variants("estimators")
HEADS = variants("heads")


def slopes(name, head="shared"):
    """Return the loss's slope along a random direction: by the gradient, with signals held, and with signals moving along."""
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS[head], "separate")
    policy, batch = make_case(spec, "numpy", "float64", seed=33)
    estimator = ESTIMATORS[name]
    signals = pg.signals(policy, estimator, batch)
    gradient = pg.gradient(policy, estimator, batch, signals=signals).numpy()
    direction = random_direction(gradient, np.random.default_rng(33))
    parameters = policy.parameters()
    held = complex_step(
        spec, parameters, Surrogate(policy.spec, estimator, batch, signals), batch, direction
    )
    size, ends = 1e-6, []
    for sign in (1, -1):
        policy.load(
            {key: value + sign * size * direction[key] for key, value in parameters.items()}
        )
        moved = Surrogate(policy.spec, estimator, batch, pg.signals(policy, estimator, batch))
        ends.append(reference.loss(spec, policy.parameters(), moved, batch))
    by_gradient = sum(float((gradient[key] * direction[key]).sum()) for key in gradient)
    return by_gradient, float(held), float((ends[0] - ends[1]) / (2 * size))


@pytest.mark.parametrize(
    "name",
    ["value baseline", "td", "n-step", "gae", "ppo", "ppo value clip", "optimal baseline", "trpo"],
)
def test_no_gradient_flows_through_a_signal(name):
    by_gradient, held, moving = slopes(name)
    assert by_gradient == pytest.approx(held, rel=1e-12)
    assert abs(moving - held) > 1e-3 * abs(held)  # what a missing stop-gradient would give instead


@pytest.mark.parametrize("name", ["reinforce", "full return", "mean baseline", "leave one out"])
def test_signals_of_rewards_alone_do_not_move_with_the_policy(name):
    by_gradient, held, moving = slopes(name, "hot")
    assert by_gradient == pytest.approx(held, rel=1e-12)
    assert moving == pytest.approx(held, rel=1e-6)


def test_the_old_policys_log_prob_is_a_constant_or_ppo_would_learn_nothing():
    spec = pg.PolicySpec(NETWORKS["tanh"], HEADS["hot"], "separate")
    policy, batch = make_case(spec, "numpy", "float64", seed=34)
    fields = (
        "observations",
        "actions",
        "rewards",
        "episode_lengths",
        "terminated",
        "final_observations",
    )
    bare = pg.Batch(
        **{name: getattr(batch, name) for name in fields}, action_mask=batch.action_mask
    )
    estimator = pg.estimator("ppo", normalise="none", value_coefficient=0.0)
    found = pg.gradient(policy, estimator, bare).numpy()
    assert np.abs(found["network.0.weight"]).max() > 1e-3
    # Moving along with the current one, the ratio is 1 whatever the parameters are.
    old, new = sp.symbols("old new")
    assert sp.diff(sp.exp(new - old).subs(old, new), new) == 0
    log_prob = policy.evaluate(bare, ("log_prob",))["log_prob"]
    np.testing.assert_array_equal(pg.signals(policy, estimator, bare)["old_log_prob"], log_prob)


def test_an_action_that_moves_with_the_mean_takes_the_means_gradient_away():
    mean, log_std, noise, ret = sp.symbols("mean log_std noise R", real=True)
    action = sp.Symbol("action", real=True)
    loss = ret * ((action - mean) ** 2 / (2 * sp.exp(2 * log_std)) + log_std)
    sampled = mean + sp.exp(log_std) * noise
    constant = sp.diff(loss, mean).subs(action, sampled)
    assert sp.simplify(constant + ret * noise / sp.exp(log_std)) == 0
    assert (
        sp.simplify(sp.diff(loss.subs(action, sampled), mean)) == 0
    )  # E2: differentiated through, nothing is left
    # The backend's is the first of the two.
    policy = pg.policy(
        pg.PolicySpec(pg.Linear(1), pg.DiagonalGaussian(1, "shared")), dtype="float64"
    )
    action_ = 0.3 + 1.7 * float(np.exp(-0.4))
    policy.load(
        {
            "network.0.weight": np.zeros((1, 1)),
            "network.0.bias": np.array([0.3]),
            "head.log_std": np.array([-0.4]),
        }
    )
    batch = pg.Batch(
        observations=[[1.0]],
        actions=[[action_]],
        rewards=[2.5],
        episode_lengths=[1],
        terminated=[True],
    )
    found = pg.gradient(policy, pg.estimator("reinforce"), batch).numpy()
    assert found["network.0.bias"][0] == pytest.approx(-2.5 * 1.7 / float(np.exp(-0.4)), rel=1e-14)
