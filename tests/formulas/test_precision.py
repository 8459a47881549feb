"""The NumPy backend against mpmath, with 60 + (largest - smallest logit) / 2.3 digits, and against complex steps."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

import pgcore as pg

CASES = {
    "mild": ([0.3, -1.1, 0.8], 0.7),
    "cold": ([1.0, 0.0, 0.5], 0.01),
    "saturated": ([0.0, 300.0, -400.0], 1.0),
    "near a tie": ([1e-9, 0.0, -1e-9], 0.3),
}


def gradient(spec, parameters, action, *, entropy):
    """Return d loss / d parameters of -log pi (without entropy), or of minus the entropy alone."""
    policy = pg.policy(spec, dtype="float64")
    policy.load(parameters)
    estimator = pg.estimator("reinforce", gamma=1.0, entropy_coefficient=1.0 if entropy else 0.0)
    batch = pg.Batch(
        observations=[0] if isinstance(spec.network, pg.Table) else [[1.0]],
        actions=[action],
        rewards=[0.0 if entropy else 1.0],
        episode_lengths=[1],
        terminated=[True],
    )
    return pg.gradient(policy, estimator, batch).numpy()


@pytest.mark.parametrize("action", range(3))
@pytest.mark.parametrize("case", CASES)
def test_score_of_a_softmax_has_every_digit(case, action):
    logits, tau = CASES[case]
    spec = pg.PolicySpec(pg.Table(1), pg.Categorical(3, temperature=tau))
    found = -gradient(spec, {"network.table": np.array([logits])}, action, entropy=False)[
        "network.table"
    ][0]
    with mpmath.workdps(60 + int((max(logits) - min(logits)) / tau / 2.3)):
        weights = [mpmath.exp(mpmath.mpf(w) / mpmath.mpf(tau)) for w in logits]
        pi = [weight / mpmath.fsum(weights) for weight in weights]
        exact = [((1 if k == action else 0) - pi[k]) / mpmath.mpf(tau) for k in range(3)]
        relative = [
            abs((mpmath.mpf(float(found[k])) - exact[k]) / exact[k])
            if abs(exact[k]) > 1e-290
            else 0
            for k in range(3)
        ]
    # z = w / tau is rounded before the exponential, so an error of |z| u / 2 in each of two exponents is inherent.
    allowed = 2.0**-53 * (16 + 2 * max(abs(w) for w in logits) / tau)
    assert max(relative) < allowed


@pytest.mark.parametrize("case", ["mild", "near a tie"])
def test_entropy_gradient_of_a_softmax(case):
    logits, tau = CASES[case]
    spec = pg.PolicySpec(pg.Table(1), pg.Categorical(3, temperature=tau))
    found = -gradient(spec, {"network.table": np.array([logits])}, 0, entropy=True)[
        "network.table"
    ][0]
    with mpmath.workdps(60):
        weights = [mpmath.exp(mpmath.mpf(w) / mpmath.mpf(tau)) for w in logits]
        pi = [weight / mpmath.fsum(weights) for weight in weights]
        entropy = -mpmath.fsum(p * mpmath.log(p) for p in pi)
        exact = np.array([float(-p / mpmath.mpf(tau) * (mpmath.log(p) + entropy)) for p in pi])
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-15)


@pytest.mark.parametrize("sigma", [1e-4, 1.0, 1e4])
def test_score_of_a_gaussian_has_every_digit(sigma):
    spec = pg.PolicySpec(pg.Linear(1), pg.DiagonalGaussian(1, "shared"))
    log_std, mean, action = float(np.log(sigma)), 0.3, 0.3 + 1.7 * sigma
    parameters = {
        "network.0.weight": np.zeros((1, 1)),
        "network.0.bias": np.array([mean]),
        "head.log_std": np.array([log_std]),
    }
    found = gradient(spec, parameters, [action], entropy=False)
    with mpmath.workdps(60):
        std = mpmath.exp(mpmath.mpf(log_std))
        z = (mpmath.mpf(action) - mpmath.mpf(mean)) / std
        exact = [float(-z / std), float(1 - z * z)]
    assert found["network.0.bias"][0] == pytest.approx(exact[0], rel=4e-15)
    assert found["head.log_std"][0] == pytest.approx(exact[1], rel=8e-15)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_network_gradient_is_the_complex_step(activation):
    spec = pg.PolicySpec(pg.MLP(2, (3, 3), activation), pg.Categorical(2, temperature=0.6))
    rng = np.random.default_rng(0)
    parameters = {name: rng.standard_normal(shape) for name, shape in spec.parameter_shapes.items()}
    observations, actions = rng.standard_normal((6, 2)), rng.integers(0, 2, 6)

    def loss(moved):
        h = observations
        for layer in range(3):
            h = h @ moved[f"network.{layer}.weight"] + moved[f"network.{layer}.bias"]
            if layer < 2:
                h = np.tanh(h) if activation == "tanh" else 1 / (1 + np.exp(-h))
        z = h / 0.6
        log_pi = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        return -log_pi[np.arange(6), actions].sum()

    policy = pg.policy(spec, dtype="float64")
    policy.load(parameters)
    batch = pg.Batch(
        observations=observations,
        actions=actions,
        rewards=[0, 0, 0, 0, 0, 1.0],
        episode_lengths=[6],
        terminated=[True],
    )
    found = pg.gradient(policy, pg.estimator("reinforce", gamma=1.0), batch).numpy()
    for _ in range(3):
        direction = {name: rng.standard_normal(value.shape) for name, value in parameters.items()}
        slope = (
            loss(
                {name: value + 1e-20j * direction[name] for name, value in parameters.items()}
            ).imag
            / 1e-20
        )
        assert sum(float((found[name] * direction[name]).sum()) for name in found) == pytest.approx(
            slope, rel=1e-13
        )
