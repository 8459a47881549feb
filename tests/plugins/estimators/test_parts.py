"""Single parts: worked numbers, retyped formulas, and errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError, UnknownNameError
from pgcore.xp.numpy import host

GROUP = {"advantage": "group_relative", "critic": None}


def composed(**fields) -> Any:
    return pg.estimator("policy_gradient", **fields)


def answers(rewards, groups, lengths=None, **fields):
    """Return a batch of answers, each with its reward at its last step."""
    lengths = np.array(lengths or [1] * len(rewards))
    r_t = np.zeros(lengths.sum())
    r_t[lengths.cumsum() - 1] = rewards
    return pg.Batch(
        observations=np.zeros(len(r_t), int),
        actions=np.zeros(len(r_t), int),
        rewards=r_t,
        episode_lengths=lengths,
        terminated=np.ones(len(lengths), bool),
        extras={"group": np.repeat(groups, lengths)},
        **fields,
    )


def policy_of():
    return pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2)), dtype="float64")


def advantages(batch, **options):
    estimator = composed(advantage={"name": "group_relative", **options}, critic=None)
    return pg.signals(policy_of(), estimator, batch)["advantage"]


def term(estimator, **inputs):
    """Return one step's term and its derivatives by quantity."""
    inputs = {name: np.array([float(value)]) for name, value in inputs.items()}
    inputs = {name: inputs[name] for name in estimator.keywords}
    cotangents = estimator.cotangents(**inputs)
    return estimator.surrogate(host, **inputs)[0], {k: v[0] for k, v in cotangents.items()}


@pytest.mark.parametrize(
    ("options", "rewards", "groups", "expected"),
    [
        ({"eps": 1e-8}, [1, 1.00001], [0, 0], [-0.7061, 0.7061]),
        ({"eps": 1e-6}, [1, 1.00001], [0, 0], [-0.6195, 0.6195]),
        ({"eps": 1e-4}, [1, 1.00001], [0, 0], [-0.0467, 0.0467]),
        ({}, [0.1, 0.1, 0.1], [5, 5, 5], [0, 0, 0]),
        ({"eps": 0.0}, [0.1, 0.1, 0.1], [5, 5, 5], [0, 0, 0]),
        ({"eps": 0.0, "scale": "batch"}, [0.1, 0.1], [5, 5], [0, 0]),
        ({"scale": "none", "leave_one_out": True}, [6, 3, 9], [0, 0, 1], [3, -3, 0]),
        ({"scale": "none", "leave_one_out": True, "lone": "raw"}, [6, 3, 9], [0, 0, 1], [3, -3, 9]),
        ({}, [1, 0, 11, 10], [0, 0, 1, 1], [0.7071, -0.7071, 0.7071, -0.7071]),
        ({"ddof": 0}, [1, 0, 11, 10], [0, 0, 1, 1], [1, -1, 1, -1]),
        # The batch's deviation is sqrt(28); groups are centred alone.
        (
            {"scale": "batch", "ddof": 0},
            [1, 0, 11, 10],
            [0, 0, 1, 1],
            [0.0995, -0.0995, 0.0995, -0.0995],
        ),
        ({}, [1, 0, 0], [0, 0, 0], [1.1547, -0.5774, -0.5774]),
    ],
)
def test_group_advantages_are_the_worked_numbers(options, rewards, groups, expected):
    actual = advantages(answers(rewards, groups), **options)
    np.testing.assert_allclose(actual, expected, atol=6e-5)
    assert all(actual[np.array(expected) == 0] == 0.0), "equal rewards give exactly 0"


def test_a_mean_weighted_by_lengths():
    batch = answers([1, 0, 5], [0, 0, 3], [1, 3, 2])
    actual = advantages(batch, scale="none", mean="steps")
    np.testing.assert_array_equal(actual, [0.75, -0.25, -0.25, -0.25, 0, 0])
    with pytest.raises(BatchError, match="at least 2 episodes"):
        advantages(batch, mean="steps", lone="error")
    equal = answers([0.1, 0.1, 0.1], [0, 0, 0], [1, 3, 2])
    assert not advantages(equal, mean="steps").any()
    opo = pg.signals(policy_of(), pg.estimator("opo"), batch)["advantage"]
    np.testing.assert_array_equal(opo, actual)
    with pytest.raises(EstimatorError, match="expected mean='episodes' with leave_one_out"):
        pg.GroupRelative(leave_one_out=True, mean="steps")


def test_an_answer_alone_in_its_group_can_be_an_error():
    with pytest.raises(
        BatchError, match=r"advantage 'group_relative': expected at least 2 epis.*lone='zero'"
    ):
        advantages(answers([6, 3, 9], [0, 0, 1]), lone="error")


def test_reductions_of_answers_of_one_and_three_tokens():
    batch = answers([1, 0], [0, 0], [1, 3])
    for reduction, expected in (("episode_step", 0.0), ("step", 0.35355)):
        estimator = composed(**GROUP, reduction=reduction)
        gradient = pg.gradient(policy_of(), estimator, batch)
        assert gradient.loss == pytest.approx(expected, abs=1e-5)


def test_a_clipped_ratio_with_a_dual_bound():
    estimator = composed(**GROUP, objective={"name": "clip", "dual": 3.0})
    loss, slopes = term(estimator, log_prob=0.0, old_log_prob=-6.0, advantage=-1.0)
    assert (loss, slopes["log_prob"]) == (pytest.approx(3.0), 0.0)
    loss, slopes = term(composed(**GROUP), log_prob=0.0, old_log_prob=-6.0, advantage=-1.0)
    assert loss == slopes["log_prob"] == pytest.approx(np.exp(6.0))


def test_two_sided_clip_is_the_smaller_of_the_limited_and_the_clipped_gain():
    """TRL's loss with `delta`: max(-min(r, delta) A, -clip(r) A)."""
    rng = np.random.default_rng(0)
    log_ratio, advantage = 0.8 * rng.standard_normal(500), rng.standard_normal(500)
    ratio = np.exp(log_ratio)
    for high, delta in ((0.28, 2.0), (0.5, 1.2)):
        estimator = composed(**GROUP, objective={"high": high, "delta": delta})
        terms = estimator.surrogate(
            host, log_prob=log_ratio, old_log_prob=0 * ratio, advantage=advantage
        )
        limited = -np.minimum(ratio, delta) * advantage
        clipped = -np.clip(ratio, 0.8, 1 + high) * advantage
        np.testing.assert_allclose(terms, np.maximum(limited, clipped), rtol=1e-14)


def test_dual_clip_is_the_papers():
    """Ye et al. 2020: max(min(r A, clip(r) A), c A) where A < 0."""
    rng = np.random.default_rng(1)
    log_ratio, advantage = rng.standard_normal(500), rng.standard_normal(500)
    ratio = np.exp(log_ratio)
    plain = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.28) * advantage)
    gain = np.where(advantage < 0, np.maximum(plain, 2.0 * advantage), plain)
    estimator = composed(**GROUP, objective={"high": 0.28, "dual": 2.0})
    terms = estimator.surrogate(
        host, log_prob=log_ratio, old_log_prob=0 * ratio, advantage=advantage
    )
    np.testing.assert_allclose(terms, -gain, rtol=1e-14)


def test_the_soft_gate_is_the_papers():
    rng = np.random.default_rng(2)
    log_ratio, advantage = rng.standard_normal(500), rng.standard_normal(500)
    tau = np.where(advantage > 0, 1.0, 1.05)
    gate = 4 / tau / (1 + np.exp(-tau * (np.exp(log_ratio) - 1)))
    terms = pg.estimator("sapo").surrogate(
        host, log_prob=log_ratio, old_log_prob=0 * tau, advantage=advantage
    )
    np.testing.assert_allclose(terms, -advantage * gate, rtol=1e-14)


def test_geometric_means_of_limited_ratios_are_the_papers():
    rng = np.random.default_rng(3)
    log_ratio, episode = 0.5 * rng.standard_normal(12), np.repeat([0, 1, 2], [5, 3, 4])
    advantage = np.array([1.0, -2.0, 0.5])[episode]
    terms = pg.estimator("gmpo").surrogate(
        host, log_prob=log_ratio, old_log_prob=0 * advantage, advantage=advantage, episode=episode
    )
    sign = np.sign(advantage)
    # As TRL writes it: the smaller of the signed log ratio and its clipped form.
    limited = sign * np.minimum(sign * log_ratio, sign * np.clip(log_ratio, -0.4, 0.4))
    for number in range(3):
        rows = episode == number
        expected = -advantage[rows] * np.exp(limited[rows].mean())
        np.testing.assert_allclose(terms[rows], expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("penalty", "value", "slope"),
    [
        ({"name": "k1"}, 0.6931, 1.0),
        ({"name": "k2"}, 0.2402, 0.6931),
        ({"name": "k3"}, 0.1931, 0.5),
        ({"name": "k3_straight"}, 0.1931, 0.6931),
        ({"name": "abs_k1"}, 0.6931, 1.0),
        ({"name": "k3", "ratio": "differentiated"}, 0.2414, 0.8664),
        ({"name": "k3", "ratio": "constant"}, 0.2414, 0.625),
        ({"name": "k2", "ratio": "constant"}, 0.3003, 0.8664),
    ],
)
def test_penalties_are_the_worked_numbers(penalty, value, slope):
    """Probabilities: pi 0.5, reference 0.25, old 0.4."""
    estimator = composed(**GROUP, objective="score", penalty={**penalty, "coefficient": 1.0})
    logs = {"log_prob": 0.5, "reference_log_prob": 0.25, "old_log_prob": 0.4}
    inputs = {name: np.log(value) for name, value in logs.items()}
    loss, slopes = term(estimator, advantage=0.0, **inputs)
    assert loss == pytest.approx(value, abs=6e-5)
    assert slopes["log_prob"] == pytest.approx(slope, abs=6e-5)


def test_sequence_ratios_are_the_worked_numbers():
    level = composed(**GROUP, level="sequence").level
    ones = np.zeros(4, int)
    episode = np.array([0, 1, 1, 1])
    ratio = np.exp(level.log_ratio(host, np.array([0.3, 0.3, 0, 0]), ones, episode))
    np.testing.assert_allclose(ratio, [1.3499, 1.1052, 1.1052, 1.1052], atol=5e-5)


def test_a_cut_episode_bootstraps_the_value_of_its_end():
    batch = pg.Batch(
        observations=[0],
        actions=[0],
        rewards=[1.0],
        episode_lengths=[1],
        terminated=[False],
        values=[10.0],
        final_values=[20.0],
    )
    policy = pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2), "separate"), dtype="float64")
    signals = pg.signals(policy, composed(advantage=pg.GAE(0.99, 0.0)), batch)
    assert (signals["advantage"][0], signals["return_"][0]) == pytest.approx((10.8, 20.8))


@pytest.mark.parametrize(
    ("critic", "error", "value", "slope"),
    [
        ({"name": "squared"}, 3.0, 4.5, 3.0),
        ({"name": "squared", "half": False}, 3.0, 9.0, 6.0),
        ({"name": "huber", "bound": 2.0}, 3.0, 4.0, 2.0),
        ({"name": "huber", "bound": 2.0}, -1.0, 0.5, -1.0),
        ({"name": "huber", "bound": 2.0, "scaled": True}, -3.0, 2.0, -1.0),
        # The recorded value is 0 and the target 1: V = 1 + error is held at 0.5.
        ({"name": "clipped", "clip": 0.5}, 3.0, 4.5, 3.0),
        ({"name": "clipped", "clip": 0.5}, -0.2, 0.125, 0.0),
        ({"name": "clipped", "clip": 0.5, "take": "held"}, 3.0, 0.125, 0.0),
        ({"name": "clipped", "clip": 0.5, "take": "held", "half": False}, -0.9, 0.81, -1.8),
    ],
)
def test_losses_of_critics(critic, error, value, slope):
    part = composed(critic=critic).composition.critic
    v, target, old = np.array([1.0 + error]), np.array([1.0]), np.array([0.0])
    assert part.term(host, v, target, old)[0] == pytest.approx(value)
    assert part.slope(v, target, old)[0] == pytest.approx(slope)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"objective": {"high": -1.0}}, r"Clip\.high: expected a number above 0"),
        ({"objective": {"dual": 1.0}}, r"Clip\.dual: expected a number above 1"),
        ({"objective": {"name": "clip", "delta": 0.5}}, r"Clip\.delta: expected a number above 1"),
        ({"objective": {"name": "sapo", "tau_positive": 0}}, r"SoftGate\.tau_positive: expected"),
        ({"advantage": {"gamma": 2.0}}, r"GAE\.gamma: expected a number in \[0, 1\]"),
        ({"advantage": {"name": "group_relative", "scale": "all"}}, r"GroupRelative\.scale: exp"),
        (
            {"penalty": {"name": "k3", "place": "reward", "ratio": "constant"}},
            "penalty 'k3': expected ratio='none' in the reward",
        ),
    ],
)
def test_options_out_of_range_are_refused(fields, words):
    with pytest.raises(EstimatorError, match=words):
        composed(**fields)


def test_kl_makes_a_penalty_by_name():
    assert pg.KL("k3", 0.04) == composed(penalty={"name": "k3", "coefficient": 0.04}).penalty
    assert pg.KL("exact", 0.1, direction="reverse_kl").reads == ("reverse_kl",)
    with pytest.raises(UnknownNameError, match=r"penalty: .* got 'k4'; did you mean 'k3'"):
        pg.KL("k4", 0.04)
    with pytest.raises(UnknownNameError, match=r"KL k3 option: .* got 'weight'"):
        pg.KL("k3", 0.04, weight=1)
