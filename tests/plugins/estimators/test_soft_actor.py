"""The soft actor's twin critics and learned temperature, by numbers worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import optimize, special

import pgcore as pg
from pgcore.errors import EstimatorError
from pgcore_estimators.soft_actor import SoftActor

TWINS = pg.PolicySpec(pg.Table(2), pg.Categorical(2), "separate", "twin")
# pi = (1/4, 3/4) in the first state and (1/2, 1/2) in the second.
LOGITS = [[0.0, math.log(3.0)], [0.0, 0.0]]


def twins(first, second, backend="numpy"):
    """Return a policy over two states with two tables of action values."""
    policy = pg.policy(TWINS, backend=backend, dtype="float64")
    tables = {"network": LOGITS, "critic.first": first, "critic.second": second}
    policy.load({f"{name}.table": np.array(rows) for name, rows in tables.items()})
    return policy


def from_first_to_second(**fields):
    """Return one step of action 1, from the first state to the second, with reward 1."""
    return pg.Batch(
        observations=[0],
        actions=[1],
        rewards=[1.0],
        episode_lengths=[1],
        terminated=[False],
        final_observations=[1],
        **fields,
    )


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax", "tensorflow"])
def test_actor_and_target_take_the_smaller_value_and_both_critics_the_target(backend):
    pytest.importorskip(f"pgcore_{backend}.backend")
    policy = twins([[4.0, 8.0], [6.0, 2.0]], [[5.0, 2.0], [1.0, 3.0]], backend)
    estimator = pg.estimator("soft_actor", alpha=0.0, gamma=0.5, twin=True)
    gradient = pg.gradient(policy, estimator, from_first_to_second())
    # The minima are (4, 2) and (1, 2): J = -(4/4 + 2 * 3/4) = -5/2, y = 1 + (1 + 2)/2/2 = 7/4.
    assert math.isclose(gradient.loss, -2.5 + ((8 - 1.75) ** 2 + (2 - 1.75) ** 2) / 4)
    # pi_k (-Q_k - J); and c_v (Q - y) of the action taken.
    expected = {
        "network.table": [[0.25 * -1.5, 0.75 * 0.5], [0.0, 0.0]],
        "critic.first.table": [[0.0, 0.5 * 6.25], [0.0, 0.0]],
        "critic.second.table": [[0.0, 0.5 * 0.25], [0.0, 0.0]],
    }
    for name, value in gradient.numpy().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-14, atol=1e-15, err_msg=name)


def test_the_target_policys_own_minimum_is_bootstrapped():
    policy, target = (
        twins([[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2),
        twins([[9.0, 9.0], [6.0, 2.0]], [[9.0, 9.0], [1.0, 3.0]]),
    )
    estimator = pg.estimator("soft_actor", alpha=0.25, gamma=0.5, twin=True)
    signals = pg.signals(policy, estimator, from_first_to_second(), target=target)
    # 3/2 of the values, log 2 of the entropy.
    np.testing.assert_allclose(signals["target"], [1.0 + 0.5 * (1.5 + 0.25 * math.log(2.0))])
    np.testing.assert_array_equal(signals["q"], [[0.0, 0.0]])


def test_within_an_episode_the_minimum_is_of_the_next_step():
    policy = twins([[4.0, 8.0], [6.0, 2.0]], [[5.0, 2.0], [1.0, 3.0]])
    batch = pg.Batch(
        observations=[0, 1],
        actions=[1, 0],
        rewards=[1.0, 7.0],
        episode_lengths=[2],
        terminated=[True],
    )
    estimator = pg.estimator("soft_actor", alpha=0.0, gamma=0.5, twin=True)
    assert pg.signals(policy, estimator, batch)["target"].tolist() == [1.75, 7.0]


def test_equal_critics_are_one_critic():
    values = [[4.0, 8.0], [6.0, 2.0]]
    single = pg.policy(dataclasses.replace(TWINS, critic_values="action"), dtype="float64")
    single.load({"network.table": np.array(LOGITS), "critic.table": np.array(values)})
    alone = pg.gradient(single, pg.estimator("soft_actor"), from_first_to_second()).numpy()
    both = pg.gradient(
        twins(values, values), pg.estimator("soft_actor", twin=True), from_first_to_second()
    ).numpy()
    np.testing.assert_array_equal(both["network.table"], alone["network.table"])
    for name in ("critic.first.table", "critic.second.table"):
        np.testing.assert_array_equal(both[name], alone["critic.table"])


def test_values_of_the_batch_take_the_place_of_the_minimum():
    batch = from_first_to_second(extras={"action_values": [[3.0, 5.0]]})
    policy = pg.policy(pg.PolicySpec(pg.Table(2), pg.Categorical(2)), dtype="float64")
    estimator = pg.estimator("soft_actor", twin=True, value_coefficient=0.0)
    assert pg.signals(policy, estimator, batch)["q"].tolist() == [[3.0, 5.0]]


@pytest.mark.parametrize("values", ["action", "state"])
def test_a_policy_without_twins_is_refused(values):
    policy = pg.policy(dataclasses.replace(TWINS, critic_values=values))
    with pytest.raises(
        EstimatorError, match=r"got no .*twin_action_value; give the spec a critic with"
    ):
        pg.gradient(policy, pg.estimator("soft_actor", twin=True), from_first_to_second())


def test_the_temperature_takes_a_gradient_step_on_its_logarithm():
    policy = twins([[0.0, 0.0]] * 2, [[0.0, 0.0]] * 2)
    batch = pg.Batch(
        observations=[0, 1],
        actions=[0, 0],
        rewards=[0.0, 0.0],
        episode_lengths=[2],
        terminated=[True],
    )
    estimator = SoftActor(alpha=0.5, gamma=1.0, target_entropy=0.25, temperature_rate=0.1)
    metrics = pg.gradient(policy, estimator, batch).metrics
    entropy = (math.log(4.0) - 0.75 * math.log(3.0) + math.log(2.0)) / 2
    assert math.isclose(metrics["entropy"], entropy)
    assert math.isclose(metrics["target_entropy"], 0.25 * math.log(2.0))
    assert metrics["alpha"] == 0.5
    learned = estimator.adapted(metrics)
    expected = 0.5 * math.exp(-0.1 * (entropy - 0.25 * math.log(2.0)))
    assert learned.temperature == pytest.approx(expected, rel=1e-12)
    # The next update begins at the new one, in the target, the terms and the metrics.
    signals = pg.signals(policy, learned, batch)
    np.testing.assert_allclose(signals["temperature"], [expected] * 2)
    np.testing.assert_allclose(signals["target"], [expected * math.log(2.0), 0.0])
    assert learned.adapted(metrics).temperature == pytest.approx(expected**2 / 0.5, rel=1e-12)
    fixed = pg.estimator("soft_actor", alpha=expected, gamma=1.0)
    np.testing.assert_allclose(
        pg.gradient(policy, learned, batch).numpy()["network.table"],
        pg.gradient(policy, fixed, batch).numpy()["network.table"],
        rtol=1e-14,
    )


def test_the_target_is_a_fraction_of_the_entropy_that_masks_allow():
    policy = pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(4), "separate", "action"))
    batch = pg.Batch(
        observations=[0, 0, 0],
        actions=[0, 1, 3],
        rewards=[0.0] * 3,
        episode_lengths=[3],
        terminated=[True],
        action_mask=[[True] * 4, [True, True, False, False], [False, False, False, True]],
    )
    estimator = pg.estimator("soft_actor", target_entropy=0.5)
    metrics = pg.gradient(policy, estimator, batch).metrics
    # log 4, log 2 and log 1 at the three steps, of which the uniform policy has all.
    assert math.isclose(metrics["entropy"], math.log(2.0), rel_tol=1e-6)
    assert math.isclose(metrics["target_entropy"], 0.5 * math.log(2.0))
    padded = pg.gradient(policy, estimator, batch.pad(8)).metrics
    assert math.isclose(padded["entropy"], metrics["entropy"], rel_tol=1e-6)


def test_a_temperature_that_is_not_learned_stays():
    fixed, learned = pg.estimator("soft_actor"), pg.estimator("soft_actor", target_entropy=0.5)
    assert fixed.adapted({"entropy": 1.0, "target_entropy": 0.5}) is fixed
    # Before a replay buffer has its first steps, an update has no metrics.
    assert learned.adapted({}) is learned


def test_the_entropy_of_a_bandit_approaches_its_target():
    """Three actions with rewards 1, 1/2 and 0: the solution is a softmax of rewards over alpha."""
    rewards, fraction = np.array([1.0, 0.5, 0.0]), 0.6
    spec = pg.PolicySpec(pg.Table(1), pg.Categorical(3), "separate", "twin")
    policy = pg.policy(spec, backend="numpy", dtype="float64")
    estimator = SoftActor(alpha=2.0, twin=True, target_entropy=fraction, temperature_rate=0.1)
    batch = pg.Batch(
        observations=[0] * 3,
        actions=[0, 1, 2],
        rewards=rewards,
        episode_lengths=[1] * 3,
        terminated=[True] * 3,
    )
    optimizer = pg.optimizer("adam", learning_rate=0.02)
    entropies = []
    for _ in range(1500):
        gradient = pg.gradient(policy, estimator, batch)
        entropies.append(gradient.metrics["entropy"])
        optimizer.step(policy, gradient)
        estimator = estimator.adapted(gradient.metrics)

    def excess(alpha):
        return special.entr(special.softmax(rewards / alpha)).sum() - fraction * math.log(3.0)

    assert math.isclose(entropies[0], math.log(3.0))
    assert math.isclose(entropies[-1], fraction * math.log(3.0), rel_tol=1e-3)
    solution = optimize.brentq(excess, 0.05, 2.0)
    assert estimator.temperature == pytest.approx(solution, rel=1e-2)


def test_a_new_temperature_compiles_nothing_anew(monkeypatch):
    pytest.importorskip("pgcore_jax.backend")
    traces, surrogate = [], SoftActor.surrogate

    def counted(self, xp, **keywords):
        traces.append(self.temperature)
        return surrogate(self, xp, **keywords)

    monkeypatch.setattr(SoftActor, "surrogate", counted)
    policy = twins([[4.0, 8.0], [6.0, 2.0]], [[5.0, 2.0], [1.0, 3.0]], "jax")
    estimator = SoftActor(twin=True, target_entropy=0.9, gamma=0.8125)
    losses = []
    for temperature in (None, 0.5, 2.0):
        now = dataclasses.replace(estimator, temperature=temperature)
        assert now == estimator
        losses.append(pg.gradient(policy, now, from_first_to_second()).loss)
    assert len(set(losses)) == 3
    assert len(traces) == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"twin": 1}, r"SoftActor\.twin: expected True or False, got 1"),
        (
            {"target_entropy": 1.5},
            r"SoftActor\.target_entropy: expected a number in \[0, 1\], got 1\.5",
        ),
        ({"target_entropy": -0.1}, r"SoftActor\.target_entropy: expected a number in \[0, 1\]"),
        (
            {"temperature_rate": 0.0},
            r"SoftActor\.temperature_rate: expected a positive number, got 0\.0",
        ),
        (
            {"target_entropy": 0.5, "alpha": 0.0},
            r"SoftActor\.alpha: expected a positive number with target_entropy, got 0; a factor",
        ),
        (
            {"temperature": 0.5},
            r"SoftActor\.temperature: expected None without target_entropy, got 0\.5; set alpha",
        ),
        (
            {"target_entropy": 0.5, "temperature": -1.0},
            r"SoftActor\.temperature: expected a positive number, got -1\.0",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(options, words):
    with pytest.raises(EstimatorError, match=words):
        pg.estimator("soft_actor", **options)


def test_a_temperature_that_overflows_is_refused():
    estimator = pg.estimator("soft_actor", target_entropy=0.5, temperature_rate=1e6)
    with pytest.raises(EstimatorError, match=r"SoftActor\.temperature: .*, got inf"):
        estimator.adapted({"entropy": 0.0, "target_entropy": 0.5})
