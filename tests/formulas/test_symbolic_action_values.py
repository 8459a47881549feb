"""SymPy differentiates the losses over action values by the network's outputs; the NumPy backend's closed forms are the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import sympy as sp

import pgcore as pg
from pgcore.errors import BatchError
from pgcore.heads import EpsilonGreedy

ALPHA, TAU = sp.Rational(3, 10), sp.Rational(7, 10)
LOGITS = [sp.Rational(1, 2), sp.Rational(-3, 4), sp.Rational(6, 5)]
Q = [sp.Rational(2), sp.Rational(-1, 3), sp.Rational(5, 4)]


def softmax(z, tau):
    total = sum(sp.exp(each / tau) for each in z)
    return [sp.exp(each / tau) / total for each in z]


def soft_loss(z, q, alpha, tau):
    return -sp.Add(
        *(p * (value - alpha * sp.log(p)) for p, value in zip(softmax(z, tau), q, strict=True))
    )


def one_step(observation, *, action=1, terminated=True, final=None, reward=0.5, **extras):
    return pg.Batch(
        observations=[observation],
        actions=[action],
        rewards=[reward],
        episode_lengths=[1],
        terminated=[terminated],
        final_observations=None if final is None else [final],
        extras={name: [value] for name, value in extras.items()},
    )


def table_gradient(estimator, q=Q, tau=TAU, **extras):
    policy = pg.policy(
        pg.PolicySpec(pg.Table(1), pg.Categorical(3, temperature=float(tau))), dtype="float64"
    )
    policy.load({"network.table": [[float(z) for z in LOGITS]]})
    batch = one_step(0, action_values=[float(value) for value in q], **extras)
    found = pg.gradient(policy, estimator, batch)
    return found.loss, found.numpy()["network.table"][0]


@pytest.mark.parametrize("alpha", [ALPHA, sp.Integer(0)])
@pytest.mark.parametrize("tau", [TAU, sp.Integer(1)])
def test_soft_actor_is_the_notes_closed_form_and_sympys_derivative(alpha, tau):
    """dJ/dw_k = pi_k (alpha log pi_k - Q_k - J) / tau; without alpha or tau it would be another number."""
    w = sp.symbols("w0:3", real=True)
    point = dict(zip(w, LOGITS, strict=True))
    j = soft_loss(w, Q, alpha, tau)
    loss, found = table_gradient(
        pg.estimator("soft_actor", alpha=float(alpha), value_coefficient=0.0), tau=tau
    )
    assert loss == pytest.approx(float(j.subs(point)), rel=1e-14)
    pi, value = [p.subs(point) for p in softmax(w, tau)], j.subs(point)
    for k in range(3):
        derivative = sp.N(sp.diff(j, w[k]).subs(point), 30)
        assert (
            abs(derivative - sp.N(pi[k] * (alpha * sp.log(pi[k]) - Q[k] - value) / tau, 30)) < 1e-25
        )
        assert found[k] == pytest.approx(float(derivative), rel=1e-13)


def test_the_soft_optimum_is_a_logsumexp():
    alpha = 0.3
    policy = pg.policy(
        pg.PolicySpec(pg.Table(1), pg.Categorical(3, temperature=0.7)), dtype="float64"
    )
    q = np.array([2.0, -1 / 3, 1.25])
    policy.load({"network.table": [0.7 * q / alpha]})
    found = pg.gradient(
        policy,
        pg.estimator("soft_actor", alpha=alpha, value_coefficient=0.0),
        one_step(0, action_values=q),
    )
    np.testing.assert_allclose(found.numpy()["network.table"], 0.0, atol=1e-15)
    assert found.loss == pytest.approx(-alpha * np.log(np.exp(q / alpha).sum()), rel=1e-14)


@pytest.mark.parametrize("proper", [True, False])
def test_the_notebooks_layer_and_the_proper_one(proper):
    """z_i = s_i (w_i1 + w_i2) + b_i is no linear layer; z = W s + b has dJ/dW = (dJ/dz) s^T. Both chain from the same dJ/dz."""
    s, weights, b = (
        [sp.Rational(3, 2), sp.Rational(-2, 5)],
        sp.symbols("w11 w12 w21 w22"),
        sp.symbols("b1 b2"),
    )
    values = dict(
        zip(
            (*weights, *b),
            map(sp.Rational, ("1/3", "-1/2", "3/4", "1/5", "1/7", "-2/3")),
            strict=True,
        )
    )
    w = [weights[:2], weights[2:]]
    z = [
        (w[i][0] * s[0] + w[i][1] * s[1] if proper else s[i] * (w[i][0] + w[i][1])) + b[i]
        for i in range(2)
    ]
    q = [sp.Rational(1), sp.Rational(-1, 2)]
    j = soft_loss(z, q, sp.Integer(1), sp.Integer(1))
    policy = pg.policy(pg.PolicySpec(pg.Linear(2), pg.Categorical(2)), dtype="float64")
    if proper:
        matrix = [[float(values[w[i][k]]) for i in range(2)] for k in range(2)]
        bias = [float(values[each]) for each in b]
    else:  # any parameters that give the notebook's z will do
        matrix, bias = np.zeros((2, 2)), [float(each.subs(values)) for each in z]
    policy.load({"network.0.weight": matrix, "network.0.bias": bias})
    batch = one_step(
        [float(each) for each in s], action=0, action_values=[float(value) for value in q]
    )
    found = pg.gradient(
        policy, pg.estimator("soft_actor", alpha=1.0, value_coefficient=0.0), batch
    ).numpy()
    d_z = found["network.0.bias"]
    for i in range(2):
        for k in range(2):
            own = found["network.0.weight"][k, i] if proper else d_z[i] * float(s[i])
            assert own == pytest.approx(float(sp.diff(j, w[i][k]).subs(values)), rel=1e-13)


def test_the_all_action_gradient_is_sympys():
    w = sp.symbols("w0:3", real=True)
    loss = -sum(p * value for p, value in zip(softmax(w, TAU), Q, strict=True))
    found = table_gradient(pg.estimator("expected", value_coefficient=0.0))[1]
    expected = [float(sp.diff(loss, each).subs(dict(zip(w, LOGITS, strict=True)))) for each in w]
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def greedy(rows):
    policy = pg.policy(pg.PolicySpec(pg.Table(2), EpsilonGreedy(3, 0.2)), dtype="float64")
    policy.load({"network.table": rows})
    return policy


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("double", [True, False])
def test_q_learning_bootstraps_from_the_target_and_holds_it(double, terminated):
    now, other = [[1.0, 2.0, 3.0], [5.0, 4.0, -1.0]], [[9.0, 9.0, 9.0], [7.0, 8.0, 30.0]]
    batch = one_step(0, action=1, terminated=terminated, final=1, reward=0.5)
    estimator = pg.estimator("q_learning", gamma=0.9, double=double)
    found = pg.gradient(greedy(now), estimator, batch, target=greedy(other)).numpy()[
        "network.table"
    ]
    y = 0.5 + (0.0 if terminated else 0.9 * (7.0 if double else 30.0))
    np.testing.assert_allclose(found, [[0.0, 2.0 - y, 0.0], [0.0, 0.0, 0.0]], rtol=1e-15)


def test_a_step_against_the_gradient_brings_q_nearer_to_its_target():
    policy, batch = greedy([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), one_step(0, action=1, reward=7.0)
    optimizer, estimator = pg.optimizer("sgd", learning_rate=0.25), pg.estimator("q_learning")
    optimizer.step(policy, pg.gradient(policy, estimator, batch))
    assert policy.parameters()["network.table"][0].tolist() == [1.0, 3.25, 3.0]


def test_an_impossible_next_action_is_not_the_best():
    policy = greedy([[1.0, 2.0, 3.0], [5.0, 4.0, 6.0]])
    batch = one_step(0, action=1, terminated=False, final=1, next_action_mask=[True, True, False])
    target = pg.signals(policy, pg.estimator("q_learning", gamma=0.9), batch)["target"]
    np.testing.assert_allclose(target, [0.5 + 0.9 * 5.0])


@pytest.mark.parametrize("head", [pg.Categorical(3), EpsilonGreedy(3, 0.2)])
def test_an_impossible_next_action_has_no_part_in_an_expectation(head):
    critic = ("none", "state") if head.action_values else ("separate", "action")
    policy = pg.policy(pg.PolicySpec(pg.Table(2), head, *critic), dtype="float64")
    q = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 600.0]])
    policy.load(
        {"network.table": q} if head.action_values else {"network.table": 0 * q, "critic.table": q}
    )
    batch = one_step(0, terminated=False, final=1, next_action_mask=[True, True, False])
    chances = np.array([0.2, 0.8]) if head.action_values else np.array([0.5, 0.5])
    mean, entropy = chances @ q[1, :2], -chances @ np.log(chances)
    for name, after in (("expected", mean), ("soft_actor", mean + 0.2 * entropy)):
        found = pg.signals(policy, pg.estimator(name, gamma=0.9), batch)["target"]
        np.testing.assert_allclose(found, [0.5 + 0.9 * after], rtol=1e-15)


def test_nothing_possible_next_is_an_error():
    policy = pg.policy(
        pg.PolicySpec(pg.Table(2), pg.Categorical(3), "separate", "action"), dtype="float64"
    )
    batch = one_step(0, terminated=False, final=1, next_action_mask=[False, False, False])
    with pytest.raises(
        BatchError,
        match="next_action_mask of truncated episodes: expected a possible action at every step",
    ):
        pg.signals(policy, pg.estimator("expected"), batch)


def test_soft_targets_are_cut_where_the_episode_ends():
    policy = pg.policy(
        pg.PolicySpec(pg.Table(2), pg.Categorical(3), "separate", "action"), dtype="float64"
    )
    rows = {"network.table": np.zeros((2, 3)), "critic.table": [[0.0, 0.0, 0.0], [1.0, 2.0, 6.0]]}
    policy.load(rows)
    for name, after in (("expected", 3.0), ("soft_actor", 3.0 + 0.2 * np.log(3.0))):
        estimator = pg.estimator(name, gamma=0.9)
        for terminated in (True, False):
            batch = one_step(0, terminated=terminated, final=1)
            expected = 0.5 + (0.0 if terminated else 0.9 * after)
            np.testing.assert_allclose(
                pg.signals(policy, estimator, batch)["target"], [expected], rtol=1e-15
            )


def test_single_steps_of_a_masked_episode_know_what_is_possible_next():
    policy = greedy([[1.0, 2.0, 3.0], [5.0, 4.0, 6.0]])
    mask = [[True, True, False], [False, True, True], [True, True, True]]
    batch = pg.Batch(
        observations=[0, 1, 0],
        actions=[1, 1, 0],
        rewards=[0.5, 1.0, 2.0],
        episode_lengths=[3],
        terminated=[True],
        action_mask=mask,
    )
    singly = batch.steps(slice(None))
    np.testing.assert_array_equal(singly.next_action_mask, [mask[1], mask[2], [True] * 3])
    estimator = pg.estimator("q_learning", gamma=0.9)
    targets = [pg.signals(policy, estimator, each)["target"] for each in (batch, singly)]
    np.testing.assert_array_equal(targets[0], targets[1])
    np.testing.assert_allclose(targets[0], [0.5 + 0.9 * 6.0, 1.0 + 0.9 * 3.0, 2.0])
