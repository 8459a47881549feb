"""SymPy derives what the notes' rows A1-A6, B12, E1 say, and the NumPy backend must compute that."""

from __future__ import annotations

import dataclasses
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp

import pgcore as pg

TAU = sp.Rational(7, 10)
LOGITS = [sp.Rational(3, 10), sp.Rational(-11, 10), sp.Rational(4, 5)]
OLD = [sp.Rational(1, 2), sp.Rational(1, 5), sp.Rational(3, 10)]


@dataclasses.dataclass(frozen=True)
class Of(pg.Estimator):
    """The sum of one quantity, weighed by a signal: its gradient is the quantity's own."""

    quantity: str = "log_prob"
    name = "of"

    @property
    def claims(self):
        discrete_only = self.quantity == "log_probs"
        return pg.Claims(
            unbiased=False, off_policy="limited", needs_critic=False, discrete_only=discrete_only
        )

    def uses(self, name):
        return name == self.quantity

    def signals(self, batch, evaluate):
        found = {"ones": np.ones(batch.num_steps)}
        return (
            found
            | ({"reference": batch.extras["reference"]} if "kl" in self.quantity else {})
            | dict(batch.extras)
        )

    def surrogate(
        self,
        xp,
        *,
        log_prob: Any = None,
        entropy: Any = None,
        kl: Any = None,
        reverse_kl: Any = None,
        log_probs: Any = None,
        target: Any = None,
        ones: Any,
    ):
        if log_probs is not None:
            return -xp.sum(log_probs * target, 1)
        return next(each for each in (log_prob, entropy, kl, reverse_kl) if each is not None) * ones

    def cotangents(
        self,
        *,
        log_prob: Any = None,
        entropy: Any = None,
        kl: Any = None,
        reverse_kl: Any = None,
        log_probs: Any = None,
        target: Any = None,
        ones: Any,
    ):
        return {self.quantity: ones}


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Of):
    """- sum_a y_a log pi_a for targets y that need not sum to 1."""

    quantity: str = "log_probs"

    def uses(self, name):
        return name in ("log_probs", "target")

    def cotangents(
        self,
        *,
        log_prob: Any = None,
        entropy: Any = None,
        kl: Any = None,
        reverse_kl: Any = None,
        log_probs: Any = None,
        target: Any = None,
        ones: Any,
    ):
        return {"log_probs": -target}


def gradient_of(estimator, spec, parameters, observation, action, **extras):
    """Return the gradient of one quantity at one step, through the public call."""
    policy = pg.policy(spec, dtype="float64")
    policy.load({name: np.array(value, np.float64) for name, value in parameters.items()})
    batch = pg.Batch(
        observations=[observation],
        actions=[action],
        rewards=[0.0],
        episode_lengths=[1],
        terminated=[True],
        extras={name: [value] for name, value in extras.items()},
    )
    return pg.gradient(policy, estimator, batch).numpy()


def table(quantity, action=1, **extras):
    spec = pg.PolicySpec(pg.Table(2), pg.Categorical(3, temperature=float(TAU)))
    rows = np.array([[0.0, 0.0, 0.0], [float(w) for w in LOGITS]])
    return gradient_of(Of(quantity), spec, {"network.table": rows}, 1, action, **extras)[
        "network.table"
    ]


def softmax(w, tau: Any = TAU):
    total = sum(sp.exp(each / tau) for each in w)
    return [sp.exp(each / tau) / total for each in w]


def numbers(expressions, values):
    return np.array([float(sp.N(expression.subs(values), 40)) for expression in expressions])


def close(found, expected, rtol=4e-15):
    np.testing.assert_allclose(found, expected, rtol=0, atol=rtol * np.abs(expected).max())


W = sp.symbols("w0:3", real=True)
AT = dict(zip(W, LOGITS, strict=True))


@pytest.mark.parametrize("action", range(3))
def test_a1_a2_score_of_the_softmax_policy(action):
    pi = softmax(W)
    expected = [sp.diff(sp.log(pi[action]), w) for w in W]
    closed = [((1 if b == action else 0) - pi[b]) / TAU for b in range(3)]
    assert all(sp.simplify(left - right) == 0 for left, right in zip(expected, closed, strict=True))
    found = table("log_prob", action)
    close(found[1], numbers(expected, AT))
    assert (found[0] == 0).all()  # another state's row


def test_a3_there_is_no_simplification_for_small_temperatures():
    spec = pg.PolicySpec(pg.Table(1), pg.Categorical(2, temperature=0.01))
    found = gradient_of(Of("log_prob"), spec, {"network.table": [[1.0, 0.8]]}, 0, 1)[
        "network.table"
    ]
    with mpmath.workdps(60):

        def both(tau):
            weights = [mpmath.exp(mpmath.mpf(w) / tau) for w in ("1", "0.8")]
            return (1 - weights[1] / sum(weights)) / tau, (1 - weights[1]) / sum(weights)

        true, notes = both(mpmath.mpf("0.01"))
        assert found[0, 1] == pytest.approx(float(true), rel=1e-15)
        assert float(true) == pytest.approx(100.0, rel=1e-8)
        assert float(notes) == pytest.approx(
            -2.0611536e-9, rel=1e-7
        )  # -exp(-20): w_b is 0.2 below the best
        # At no temperature is it the score, divided by tau or not: it is negative where the score is positive.
        for tau in ("0.001", "0.01", "0.1", "1", "10"):
            true, notes = both(mpmath.mpf(tau))
            assert true > 0 > notes


def test_a4_entropy_and_hessian_of_the_softmax_policy():
    pi = softmax(W)
    entropy = -sum(p * sp.log(p) for p in pi)
    close(table("entropy")[1], numbers([sp.diff(entropy, w) for w in W], AT))
    closed = [-(pi[k] / TAU) * (sp.log(pi[k]) + entropy) for k in range(3)]
    assert max(abs(numbers([sp.diff(entropy, W[k]) - closed[k] for k in range(3)], AT))) < 1e-30
    # The Hessian of log pi is minus the Fisher information, the same for every action; the backend's products are its columns.
    hessian = np.array(
        [numbers([sp.diff(sp.log(pi[0]), left, right) for right in W], AT) for left in W]
    )
    spec = pg.PolicySpec(pg.Table(1), pg.Categorical(3, temperature=float(TAU)))
    policy = pg.policy(spec, dtype="float64")
    policy.load({"network.table": np.array([[float(w) for w in LOGITS]])})
    batch = pg.Batch(
        observations=[0], actions=[0], rewards=[0.0], episode_lengths=[1], terminated=[True]
    )
    close(
        np.array([policy.fisher_vector_product(batch, column) for column in np.eye(3)]),
        -hessian,
        1e-15,
    )


def test_a4_temperature_derivative_of_the_score_function():
    tau = sp.symbols("tau", positive=True)
    pi = softmax(W, tau)
    mean = sum(p * w for p, w in zip(pi, W, strict=True))
    for action in range(3):
        difference = sp.diff(sp.log(pi[action]), tau) + (W[action] - mean) / tau**2
        assert abs(sp.N(difference.subs(AT).subs(tau, TAU), 40)) < 1e-35


def test_b12_kl_of_softmax_policies_in_both_arguments():
    pi = softmax(W)
    reference = [float(sp.N(sp.log(p), 30)) for p in OLD]
    kl = sum(old * sp.log(old / new) for old, new in zip(OLD, pi, strict=True))
    close(table("kl", reference=reference)[1], numbers([sp.diff(kl, w) for w in W], AT))
    reverse = sum(new * sp.log(new / old) for old, new in zip(OLD, pi, strict=True))
    close(
        table("reverse_kl", reference=reference)[1], numbers([sp.diff(reverse, w) for w in W], AT)
    )


MU, LOG_STD, A = sp.symbols("mu log_std a", real=True)
LOG_DENSITY = -((A - MU) ** 2) / (2 * sp.exp(2 * LOG_STD)) - LOG_STD - sp.log(2 * sp.pi) / 2
POINT = {MU: sp.Rational(1, 3), LOG_STD: sp.Rational(-2, 5), A: sp.Rational(5, 4)}
GAUSSIANS = {
    "shared": pg.DiagonalGaussian(1, "shared"),
    "per-state": pg.DiagonalGaussian(1, "per-state", std=1.0),
}


def gaussian(kind, quantity, **extras):
    """Return d quantity / d (mean, log std) at POINT; the observation 1 makes both the biases'."""
    mean, log_std = float(POINT[MU]), float(POINT[LOG_STD])
    spec = pg.PolicySpec(pg.Linear(1), GAUSSIANS[kind])
    if kind == "shared":
        parameters: dict[str, Any] = {
            "network.0.weight": [[0.0]],
            "network.0.bias": [mean],
            "head.log_std": [log_std],
        }
    else:
        parameters = {"network.0.weight": [[0.0, 0.0]], "network.0.bias": [mean, log_std]}
    found = gradient_of(Of(quantity), spec, parameters, [1.0], [float(POINT[A])], **extras)
    return (
        np.append(found["network.0.bias"], found["head.log_std"])
        if kind == "shared"
        else found["network.0.bias"]
    )


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_a5_e1_score_of_the_gaussian_policy(kind):
    expected = [sp.diff(LOG_DENSITY, symbol) for symbol in (MU, LOG_STD)]
    sigma = sp.exp(LOG_STD)
    assert sp.simplify(expected[0] - (A - MU) / sigma**2) == 0
    assert sp.simplify(expected[1] - (((A - MU) / sigma) ** 2 - 1)) == 0
    close(gaussian(kind, "log_prob"), numbers(expected, POINT))
    assert numbers(expected, POINT)[0] > 0  # the notes' line before the last has the other sign


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_e1_derivative_in_the_standard_deviation_itself(kind):
    sigma, reward = sp.symbols("sigma R", positive=True)
    loss = -reward * (-((A - MU) ** 2) / (2 * sigma**2) - sp.log(sigma))
    assert sp.simplify(sp.diff(loss, MU) + reward * (A - MU) / sigma**2) == 0
    by_sigma = sp.diff(loss, sigma)
    assert sp.simplify(by_sigma + reward * (((A - MU) / sigma) ** 2 - 1) / sigma) == 0
    # The backend's parameter is log sigma, whose derivative is sigma times that; of the score, which is the loss of reward -1.
    at = POINT | {sigma: sp.exp(POINT[LOG_STD]), reward: -1}
    close(gaussian(kind, "log_prob")[1:], numbers([sigma * by_sigma], at))


@pytest.mark.parametrize("kind", GAUSSIANS)
def test_a5_entropy_and_kl_of_gaussian_policies(kind):
    mu0, log0 = sp.Rational(-1, 5), sp.Rational(1, 10)
    entropy = LOG_STD + (1 + sp.log(2 * sp.pi)) / 2
    kl = (
        LOG_STD
        - log0
        + (sp.exp(2 * log0) + (mu0 - MU) ** 2) / (2 * sp.exp(2 * LOG_STD))
        - sp.Rational(1, 2)
    )
    reverse = (
        log0
        - LOG_STD
        + (sp.exp(2 * LOG_STD) + (mu0 - MU) ** 2) / (2 * sp.exp(2 * log0))
        - sp.Rational(1, 2)
    )
    for quantity, expression in (("entropy", entropy), ("kl", kl), ("reverse_kl", reverse)):
        extras = {} if quantity == "entropy" else {"reference": [float(mu0), float(log0)]}
        expected = numbers([sp.diff(expression, symbol) for symbol in (MU, LOG_STD)], POINT)
        close(gaussian(kind, quantity, **extras), expected)


def test_a5_fisher_information_is_one_over_variance_and_two():
    fisher = [
        sp.integrate(sp.diff(LOG_DENSITY, symbol) ** 2 * sp.exp(LOG_DENSITY), (A, -sp.oo, sp.oo))
        for symbol in (MU, LOG_STD)
    ]
    assert [sp.simplify(each) for each in fisher] == [sp.exp(-2 * LOG_STD), 2]
    # The backend's products with the mean's bias and with the log standard deviation, at the observation 0, are its columns.
    policy = pg.policy(pg.PolicySpec(pg.Linear(1), GAUSSIANS["shared"]), dtype="float64")
    own = {
        "network.0.weight": [[0.0]],
        "network.0.bias": [float(POINT[MU])],
        "head.log_std": [float(POINT[LOG_STD])],
    }
    policy.load({name: np.array(value) for name, value in own.items()})
    batch = pg.Batch(
        observations=[[0.0]],
        actions=[[1.25]],
        rewards=[0.0],
        episode_lengths=[1],
        terminated=[True],
    )
    columns = np.array([policy.fisher_vector_product(batch, column) for column in np.eye(3)])
    close(columns, np.diag([0.0, *numbers(fisher, POINT)]))


WEIGHTS = {
    "network.0.weight": [
        [sp.Rational(1, 2), sp.Rational(-3, 4)],
        [sp.Rational(2, 5), sp.Rational(1, 3)],
    ],
    "network.0.bias": [sp.Rational(1, 10), sp.Rational(-1, 5)],
    "network.1.weight": [
        [sp.Rational(7, 10), sp.Rational(-2, 5)],
        [sp.Rational(1, 4), sp.Rational(9, 10)],
    ],
    "network.1.bias": [sp.Rational(-1, 10), sp.Rational(3, 10)],
}
ACTIVATIONS = {
    "relu": lambda z: sp.Piecewise((z, z > 0), (0, True)),
    "tanh": sp.tanh,
    "sigmoid": lambda z: 1 / (1 + sp.exp(-z)),
}


@pytest.mark.parametrize(
    "target", [(1, 0), (sp.Rational(3, 4), sp.Rational(7, 4))], ids=["one-hot", "sum 2.5"]
)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a6_network_with_softmax_output(activation, target):
    x = [sp.Rational(4, 5), sp.Rational(-1, 2)]
    symbols = {
        name: np.array(sp.symbols(f"{name.replace('.', '_')}_0:{np.size(value)}")).reshape(
            np.shape(value)
        )
        for name, value in WEIGHTS.items()
    }
    values = {
        s: v
        for name in WEIGHTS
        for s, v in zip(symbols[name].ravel(), np.array(WEIGHTS[name]).ravel(), strict=True)
    }

    def layer(number, inputs):
        weight, bias = symbols[f"network.{number}.weight"], symbols[f"network.{number}.bias"]
        return [sum(inputs[i] * weight[i, j] for i in range(2)) + bias[j] for j in range(2)]

    logits = layer(1, [ACTIVATIONS[activation](z) for z in layer(0, x)])
    loss = -sum(y * sp.log(p) for y, p in zip(target, softmax(logits, 1), strict=True))
    spec = pg.PolicySpec(pg.MLP(2, (2,), activation), pg.Categorical(2))
    parameters = {name: np.array(value, np.float64) for name, value in WEIGHTS.items()}
    found = gradient_of(
        CrossEntropy(),
        spec,
        parameters,
        [float(each) for each in x],
        0,
        target=[float(y) for y in target],
    )
    for name, own in symbols.items():
        expected = np.array(
            [float(sp.N(sp.diff(loss, s).subs(values), 30)) for s in own.ravel()]
        ).reshape(own.shape)
        np.testing.assert_allclose(found[name], expected, rtol=1e-14, atol=1e-16, err_msg=name)
