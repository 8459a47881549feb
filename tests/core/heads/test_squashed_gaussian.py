"""Normals under a hyperbolic tangent: the density, its tails, and what has no closed form."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from scipy import integrate

import pgcore as pg
from pgcore.errors import EstimatorError, SpecError
from pgcore.xp.numpy import host

HEAD = pg.SquashedGaussian(1, std=0.8)


def described(mean, std):
    return np.array([[mean, np.log(std)]])


def test_the_density_integrates_to_one_over_the_bounds():
    distribution = described(0.4, 0.8)
    mass, _ = integrate.quad(
        lambda a: np.exp(HEAD.log_prob(host, distribution, np.array([[np.arctanh(a)]]))[0]),
        -1.0,
        1.0,
    )
    assert mass == pytest.approx(1.0, abs=1e-8)


@pytest.mark.parametrize("u", [-400.0, -20.0, -3.0, -1e-8, 0.0, 0.5, 20.0, 400.0])
def test_the_slope_is_exact_far_out(u):
    """log(1 - tanh(u)^2 + 1e-6), as it is often written, is off by 25 nats at 20."""
    found = pg.DiagonalGaussian(1).log_prob(
        host, described(u, 1.0), np.array([[u]])
    ) - HEAD.log_prob(host, described(u, 1.0), np.array([[u]]))
    with mpmath.workdps(400):
        expected = mpmath.log(mpmath.sech(mpmath.mpf(u)) ** 2)
    assert found[0] == pytest.approx(float(expected), rel=1e-13, abs=1e-15)


def test_scores_and_divergences_are_the_normal_distributions():
    kwargs = {"backend": "numpy", "seed": 3, "dtype": "float64"}
    squashed = pg.policy(pg.PolicySpec(pg.Linear(2), pg.SquashedGaussian(2)), **kwargs)
    plain = pg.policy(pg.PolicySpec(pg.Linear(2), pg.DiagonalGaussian(2)), **kwargs)
    rng = np.random.default_rng(0)
    batch = pg.Batch(
        observations=rng.standard_normal((5, 2)),
        actions=rng.standard_normal((5, 2)),
        rewards=np.ones(5),
        episode_lengths=[5],
        terminated=[True],
        extras={"reference": rng.standard_normal((5, 4))},
    )
    np.testing.assert_array_equal(squashed.episode_scores(batch), plain.episode_scores(batch))
    names = ("kl", "reverse_kl")
    for found, expected in zip(
        squashed.evaluate(batch, names).values(), plain.evaluate(batch, names).values(), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_an_environment_is_given_actions_within_the_bounds():
    policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.SquashedGaussian(3, std=9.0)))
    actions, log_probs = policy.act(np.ones((50, 2)), pg.generator(0))
    given = policy.spec.head.environment_actions(actions)
    np.testing.assert_array_equal(given, np.tanh(actions))
    assert np.abs(actions).max() > 5
    assert np.isfinite(log_probs).all()
    assert pg.DiagonalGaussian(3).environment_actions(actions) is actions


def test_there_is_no_entropy():
    policy = pg.policy(pg.PolicySpec(pg.Linear(2), HEAD, "separate"))
    with pytest.raises(EstimatorError, match="got no entropy"):
        policy.check_fits(pg.estimator("ppo", entropy_coefficient=0.01))
    policy.check_fits(pg.estimator("ppo", entropy_coefficient=0.0))
    with pytest.raises(EstimatorError, match="entropy has a closed form"):
        HEAD.entropy(host, described(0.0, 1.0))


def test_errors_name_the_head():
    with pytest.raises(SpecError, match=r"SquashedGaussian\.std: expected a positive number"):
        pg.SquashedGaussian(1, std=-1.0)
