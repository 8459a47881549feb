"""Advantages as parts: worked numbers, and plain loops as their second definition."""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError, NonFiniteError, PgcoreError, ShapeError
from pgcore.parts import StepMask
from pgcore.registry.registry import registry
from pgcore.returns import (
    best_over_second,
    leave_one_out_mean,
    unmasked_episodes,
    weighted_centre,
    weighted_means,
)
from pgcore_check.cases.cases import Case
from pgcore_check.proofs import hold_to_parent
from pgcore_check.reference.estimator_form import estimator_form
from pgcore_estimators.policy_gradient import PolicyGradient
from pgcore_estimators.proofs.composed_advantages import ADVANTAGES

POLICY = pg.policy(
    pg.PolicySpec(pg.Linear(1), pg.Categorical(2), "separate"), dtype="float64", seed=1
)
LENGTHS = np.array([2, 1, 3, 1, 4, 2])
GROUPS = np.array([5, 2, 5, 2, 5, 9])
RNG = np.random.default_rng(11)
REWARDS = RNG.standard_normal(13)
RELATIVE = ("group_relative", "success_normalised", "best_alone", "gpg")


def batch_of(rewards, lengths, groups=None, extras=None, **fields):
    """Return whole episodes; groups are one number an episode."""
    extras = {name: np.asarray(value) for name, value in (extras or {}).items()}
    if groups is not None:
        extras["group"] = np.repeat(groups, lengths)
    return pg.Batch(
        observations=np.ones((sum(lengths), 1)),
        actions=np.zeros(sum(lengths), int),
        rewards=rewards,
        episode_lengths=lengths,
        extras=extras,
        **{"terminated": [True] * len(lengths), **fields},
    )


def of_answers(rewards, groups, lengths=None):
    """Return answers whose reward comes with the last token."""
    lengths = [1] * len(rewards) if lengths is None else lengths
    r_t = np.zeros(sum(lengths))
    r_t[np.cumsum(lengths) - 1] = rewards
    return batch_of(r_t, lengths, groups)


@dataclass(frozen=True)
class Late(StepMask):
    """Leaves the steps of a loss mask out of the loss, once advantages are computed."""

    name = "late"

    def keeps(self, batch):
        """See `StepMask.keeps`."""
        return batch.extras["loss_mask"]


def advantages(batch, name, **options):
    """Return [B] advantages of a part under options; steps of a loss mask are left out late."""
    part = {"name": name, **options}
    mask = Late() if "loss_mask" in batch.extras else None
    estimator = pg.estimator(
        "policy_gradient", advantage=part, objective="score", critic=None, mask=mask
    )
    return pg.signals(POLICY, estimator, batch)["advantage"]


def by_loop(rewards, groups, function):
    """Return for each answer `function(i, peers, rewards)`, with peers the indices of its group."""
    return np.array(
        [
            function(i, [j for j, number in enumerate(groups) if number == groups[i]], rewards)
            for i in range(len(rewards))
        ]
    )


# Worked numbers.


def test_one_group_of_three_leaves_one_out():
    batch = of_answers([6.0, 3.0, 9.0], [0, 0, 1])
    options = {"scale": "none", "leave_one_out": True}
    assert advantages(batch, "group_relative", **options).tolist() == [3.0, -3.0, 0.0]
    assert advantages(batch, "group_relative", **options, lone="raw").tolist() == [3.0, -3.0, 9.0]
    with pytest.raises(BatchError, match=r"group 1: advantage 'group_relative': .* got 1; collect"):
        advantages(batch, "group_relative", **options, lone="error")


def test_a_masked_answer_counts_in_the_baseline_or_not():
    batch = of_answers([1.0, 0.0, 0.0], [0, 0, 0])
    counted = advantages(batch, "group_relative")
    np.testing.assert_allclose(counted, [1.1547, -0.5774, -0.5774], atol=5e-5)
    batch = batch.with_extras(loss_mask=[True, True, False])
    uncounted = advantages(batch, "group_relative", count_masked=False)
    np.testing.assert_allclose(uncounted, [0.7071, -0.7071, 0.0], atol=5e-5)
    assert unmasked_episodes(batch).tolist() == [True, True, False]
    with pytest.raises(BatchError, match=r"loss_mask.*got none; add it, or set count_masked=True"):
        advantages(of_answers([1.0, 0.0], [0, 0]), "group_relative", count_masked=False)


def test_a_truncated_step_bootstraps_from_the_final_value():
    batch = batch_of(
        [1.0],
        [1],
        terminated=[False],
        values=[10.0],
        final_values=[20.0],
        final_observations=[[1.0]],
    )
    for name, options in {"td": {}, "n_step": {"n": 3}, "gae": {"gae_lambda": 0.0}}.items():
        actual = advantages(batch, name, gamma=0.99, **options)
        np.testing.assert_allclose(actual, [10.8], rtol=1e-15)


def test_gae_runs_over_the_policys_own_tokens():
    # A third token, of a tool and of value 100, is no step.
    batch = batch_of([0.0, 1.0], [2], values=[0.0, 0.0])
    actual = advantages(batch, "gae", gamma=1.0, gae_lambda=0.95)
    np.testing.assert_allclose(actual, [0.95, 1.0], rtol=1e-15)


def test_worked_numbers_of_other_group_advantages():
    half = of_answers([1.0, 0.0], [0, 0], [1, 3])
    assert advantages(half, "group_relative", scale="none", mean="steps").tolist() == [
        0.75,
        -0.25,
        -0.25,
        -0.25,
    ]
    quarter = of_answers([1.0, 0.0, 0.0, 0.0], [0] * 4)
    assert advantages(quarter, "gpg", norm=2.0).tolist() == [1.5, -0.5, -0.5, -0.5]
    relative = advantages(quarter, "success_normalised", eps=0.0)
    assert relative.tolist() == [3.0, -1.0, -1.0, -1.0]
    best = of_answers([0.5, 2.0, 1.5], [0] * 3)
    assert advantages(best, "best_alone", scale="none").tolist() == [0.0, 0.5, 0.0]
    deviation = np.std([0.5, 2.0, 1.5], ddof=1)
    np.testing.assert_allclose(advantages(best, "best_alone")[1], 0.5 / deviation, rtol=1e-7)
    tie = of_answers([2.0, 2.0, 1.0], [0] * 3)
    assert advantages(tie, "best_alone").tolist() == [0.0, 0.0, 0.0]


# Options of all group advantages.


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("options", [{}, {"leave_one_out": True}, {"eps": 0.0}])
def test_equal_rewards_give_exactly_nothing(name, scale, options):
    if name == "best_alone":
        options = {key: value for key, value in options.items() if key != "leave_one_out"}
    batch = of_answers([0.1] * 7 + [0.7, 0.9], [0] * 7 + [1, 1], [1, 2, 3, 1, 4, 1, 1, 1, 2])
    actual = advantages(batch, name, scale=scale, **options)
    assert actual[:13].tolist() == [0.0] * 13
    assert actual[13:].any()
    alike = of_answers([0.1] * 3, [0, 0, 4])
    assert advantages(alike, name, scale=scale, **options).tolist() == [0.0] * 3


@pytest.mark.parametrize("name", RELATIVE)
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("count_masked", [True, False])
@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("mean", ["episodes", "steps"])
def test_group_advantages_are_their_loops(name, scale, count_masked, leave_one_out, ddof, mean):
    mask = np.repeat([True, True, True, True, False, True, True], [2, 1, 3, 1, 4, 2, 1])
    lengths, groups = np.array([2, 1, 3, 1, 4, 2, 1]), np.array([5, 2, 5, 2, 5, 5, 9])
    r_t = np.abs(RNG.standard_normal(14))
    batch = batch_of(r_t, lengths, groups, {} if count_masked else {"loss_mask": mask})
    options = {"scale": scale, "count_masked": count_masked, "ddof": ddof, "eps": 0.1}
    if name != "best_alone":
        options |= {"leave_one_out": leave_one_out, "mean": mean}
    totals = [part.sum() for part in np.split(r_t, lengths.cumsum()[:-1])]
    counted = [i for i in range(7) if count_masked or i != 4]

    def spread(rewards):
        return np.mean(rewards) if name == "success_normalised" else np.std(rewards, ddof=ddof)

    def relative(i, peers, rewards):
        peers = [j for j in peers if j in counted]
        if i not in counted or len(peers) == 1:
            return 0.0
        others = [j for j in peers if j != i] if leave_one_out and name != "best_alone" else peers
        weights: Any = [lengths[j] if mean == "steps" else 1 for j in others]
        baseline = np.dot(weights, [rewards[j] for j in others]) / sum(weights)
        advantage = rewards[i] - baseline
        if name == "best_alone":
            first, second = sorted((rewards[j] for j in peers), reverse=True)[:2]
            advantage = first - second if rewards[i] == first else 0.0
        # The factor of "gpg" is 1: every reward is above 0.
        divisor = {
            "group": lambda: spread([rewards[j] for j in peers]) + 0.1,
            "batch": lambda: spread([rewards[j] for j in counted]) + 0.1,
            "none": lambda: 1.0,
        }[scale]()
        return advantage / divisor

    expected = np.repeat(by_loop(totals, groups, relative), lengths)
    np.testing.assert_allclose(advantages(batch, name, **options), expected, rtol=1e-12, atol=1e-15)
    # Padding is in no group.
    padded = advantages(batch.pad(17), name, **options)
    np.testing.assert_allclose(padded[:14], expected, rtol=1e-12, atol=1e-15)
    assert not padded[14:].any()


def test_one_group_of_all():
    batch = of_answers([1.0, 0.0, 0.0], None)
    actual = advantages(batch, "group_relative", group="all", scale="none")
    np.testing.assert_allclose(actual, [2 / 3, -1 / 3, -1 / 3], rtol=1e-15)
    with pytest.raises(BatchError, match=r"group.*got none; number the groups"):
        advantages(batch, "group_relative")


def test_a_variance_that_overflows_is_an_error():
    batch = of_answers([1e200, -1e200], [0, 0])
    with pytest.raises(NonFiniteError, match=r"group_relative': expected .* finite variance"):
        advantages(batch, "group_relative")


def test_the_share_of_rewards_other_than_nothing_is_of_the_batch():
    batch = of_answers([2.0, 0.0, 0.0, 0.0, 3.0], [0, 0, 1, 1, 0])
    mean = 5 / 3
    expected = 5 / 2 * np.array([2 - mean, -mean, 0, 0, 3 - mean])
    np.testing.assert_allclose(advantages(batch, "gpg"), expected, rtol=1e-14)
    assert not advantages(of_answers([0.0, 0.0], [0, 0]), "gpg").any()


def test_a_group_without_success_has_nothing_to_learn():
    batch = of_answers([0.0, 0.0, -1.0, -3.0, 1.0, 0.0], [0, 0, 1, 1, 2, 2])
    actual = advantages(batch, "success_normalised", eps=0.0)
    assert actual.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0, -1.0]


# Exact expectations: all draws of a group from a bandit, whose score in its logit is 1 - p or -p.


def expected_score(name, answers, p, **options):
    """Return the expected sum of advantage times score over a group."""
    total = 0.0
    for rewards in itertools.product([0.0, 1.0], repeat=answers):
        probability = math.prod(p if reward else 1 - p for reward in rewards)
        advantage = advantages(of_answers(rewards, [0] * answers), name, **options)
        total += probability * (advantage @ (np.array(rewards) - p))
    return total


@pytest.mark.parametrize("answers", [2, 3, 5])
@pytest.mark.parametrize("p", [0.1, 0.7])
def test_success_normalised_rewards_climb_the_start_of_the_log_likelihood(answers, p):
    # d/dp of -sum_{k < N} (1 - p)^k / k, and dp / d logit = p (1 - p).
    slope = p * (1 - p) * sum((1 - p) ** (k - 1) for k in range(1, answers))
    actual = expected_score("success_normalised", answers, p, eps=0.0) / answers
    assert actual == pytest.approx(slope, rel=1e-12)


@pytest.mark.parametrize("answers", [2, 3, 5])
@pytest.mark.parametrize("p", [0.1, 0.7])
def test_the_best_alone_is_the_gradient_of_the_groups_best_reward(answers, p):
    # The best reward's expectation is 1 - (1 - p)^N.
    slope = p * (1 - p) * answers * (1 - p) ** (answers - 1)
    actual = expected_score("best_alone", answers, p, scale="none")
    assert actual == pytest.approx(slope, rel=1e-12)


# Returns against a group's baseline.


@pytest.mark.parametrize("leave_one_out", [True, False])
@pytest.mark.parametrize("lone", ["zero", "raw"])
def test_group_returns_are_their_loop(leave_one_out, lone):
    batch = batch_of(REWARDS, LENGTHS, GROUPS)
    actual = advantages(batch, "group_returns", gamma=0.9, leave_one_out=leave_one_out, lone=lone)
    episodes = np.split(np.arange(13), LENGTHS.cumsum()[:-1])
    totals = [REWARDS[steps].sum() for steps in episodes]

    def baseline(i, peers, rewards):
        if len(peers) == 1:
            return rewards[i] if lone == "zero" else 0.0
        return np.mean([rewards[j] for j in peers if not leave_one_out or j != i])

    means = by_loop(totals, GROUPS, baseline)
    for i, steps in enumerate(episodes):
        for t in steps:
            g_t = sum(0.9 ** (k - t) * REWARDS[k] for k in range(t, steps[-1] + 1))
            assert actual[t] == pytest.approx(g_t - means[i], rel=1e-12)


def test_returns_of_a_masked_answer_are_no_advantage():
    batch = batch_of([0.0, 1.0, 0.0, 4.0], [2, 2], [0, 0], {"loss_mask": [1, 1, 0, 0]})
    options = {"gamma": 0.5, "count_masked": False}
    assert advantages(batch, "group_returns", **options, lone="raw").tolist() == [
        0.5,
        1.0,
        0.0,
        0.0,
    ]


def test_a_greedy_answers_reward_is_a_baseline():
    batch = batch_of([1.0, 2.0, 4.0], [2, 1], None, {"greedy_rewards": [0.5, 0.5, 3]})
    assert advantages(batch, "greedy_baseline").tolist() == [2.5, 1.5, 1.0]
    assert advantages(batch, "greedy_baseline", gamma=0.5).tolist() == [1.5, 1.5, 1.0]
    with pytest.raises(BatchError, match=r"greedy_rewards.*got none; decode each prompt greedily"):
        advantages(batch_of([1.0], [1]), "greedy_baseline")


def test_given_advantages_are_taken_as_they_are():
    batch = batch_of([9.0, 9.0, 9.0], [2, 1], None, {"advantages": [1, -2, 3]})
    assert advantages(batch, "given").tolist() == [1.0, -2.0, 3.0]
    with pytest.raises(BatchError, match=r"'advantages'.*got none"):
        advantages(batch_of([1.0], [1]), "given")
    with pytest.raises(ShapeError, match=r"'advantages'.*got \[1, 2\]"):
        advantages(batch_of([1.0], [1], None, {"advantages": [[1.0, 2.0]]}), "given")


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("count_masked", [True, False])
@pytest.mark.parametrize("lone", ["zero", "raw"])
def test_the_optimal_token_baseline_is_its_loop(corrected, count_masked, lone):
    log_probs = np.log(RNG.uniform(0.2, 0.9, 13))
    squares = np.exp(2 * log_probs) + 0.5 * (1 - np.exp(log_probs)) ** 2
    extras = {"squared_probs": squares, "correction_weights": RNG.uniform(0.5, 2.0, 13)}
    if not count_masked:
        extras["loss_mask"] = np.repeat([True, True, True, False, True, True], LENGTHS)
    batch = batch_of(REWARDS, LENGTHS, GROUPS, extras, log_probs=log_probs)
    options = {"corrected": corrected, "count_masked": count_masked, "lone": lone, "gamma": 0.9}
    actual = advantages(batch, "optimal_token_baseline", **options)
    starts = LENGTHS.cumsum() - LENGTHS

    def energy(i, t):
        terms = 0.0
        for j in range(starts[i], starts[i] + t + 1):
            weight = extras["correction_weights"][j] ** 2 if corrected else 1.0
            terms += (1 - 2 * np.exp(log_probs[j]) + squares[j]) * weight
        return terms

    def to_go(i, t):
        return sum(0.9 ** (k - t) * REWARDS[starts[i] + k] for k in range(t, LENGTHS[i]))

    for i in range(6):
        for t in range(LENGTHS[i]):
            peers = [
                j
                for j in range(6)
                if GROUPS[j] == GROUPS[i] and t < LENGTHS[j] and (count_masked or j != 3)
            ]
            baseline = 0.0
            if len(peers) > 1:
                total = sum(energy(j, t) for j in peers)
                baseline = sum(to_go(j, t) * energy(j, t) for j in peers) / total
            elif lone == "zero":
                baseline = to_go(i, t)
            expected = to_go(i, t) - baseline if count_masked or i != 3 else 0.0
            assert actual[starts[i] + t] == pytest.approx(expected, rel=1e-12, abs=1e-14)
    np.testing.assert_allclose(
        advantages(batch.pad(16), "optimal_token_baseline", **options)[:13], actual, rtol=1e-14
    )


def test_bad_input_of_the_optimal_token_baseline():
    batch = batch_of(
        [1.0, 2.0], [1, 1], [0, 1], {"squared_probs": [0.5, 0.5]}, log_probs=[-0.7] * 2
    )
    with pytest.raises(BatchError, match=r"group 0: advantage 'optimal_token_baseline': .* got 1"):
        advantages(batch, "optimal_token_baseline", lone="error")
    wrong = batch.with_extras(squared_probs=[0.5, -0.5])
    with pytest.raises(BatchError, match=r"squared_probs.*: expected at least .* at step 1; sum"):
        advantages(wrong, "optimal_token_baseline")
    with pytest.raises(BatchError, match=r"correction_weights.*got none; add them, or set"):
        advantages(batch, "optimal_token_baseline", corrected=True)


# Several rewards.


@pytest.mark.parametrize("first", ["sum", "normalise"])
@pytest.mark.parametrize("rows", ["step", "episode"])
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_several_rewards_are_their_loop(first, rows, scale):
    totals = RNG.standard_normal((6, 3)) * [1.0, 10.0, 0.1]
    lengths, groups = [2, 1, 3, 1, 2, 4], [0, 1, 0, 1, 1, 0]
    steps = np.repeat(totals, lengths, axis=0)
    if rows == "step":
        steps = steps / np.repeat(lengths, lengths)[:, None]
    batch = batch_of(np.zeros(13), lengths, groups, {"rewards": steps})
    weights = (1.0, 0.5, -2.0)
    options = {"weights": list(weights), "first": first, "rows": rows, "scale": scale, "eps": 0.01}

    def relative(i, peers, rewards):
        deviation = {
            "group": np.std([rewards[j] for j in peers], ddof=1) + 0.01,
            "batch": np.std(rewards, ddof=1) + 0.01,
            "none": 1.0,
        }[scale]
        return (rewards[i] - np.mean([rewards[j] for j in peers])) / deviation

    if first == "sum":
        expected = by_loop([np.dot(row, weights) for row in totals], groups, relative)
    else:
        columns = [by_loop(totals[:, k].tolist(), groups, relative) for k in range(3)]
        expected = sum(c * column for c, column in zip(weights, columns, strict=True))
    actual = advantages(batch, "several_rewards", **options)
    np.testing.assert_allclose(actual, np.repeat(expected, lengths), rtol=1e-11, atol=1e-13)


def test_normalising_first_keeps_a_small_reward_visible():
    totals = np.array([[1.0, 100.0], [0.0, 100.0], [1.0, 0.0], [0.0, 0.0]])
    batch = batch_of(np.zeros(4), [1] * 4, [0] * 4, {"rewards": totals})
    actual = advantages(batch, "several_rewards", first="normalise", eps=0.0)
    np.testing.assert_allclose(actual, math.sqrt(3) * np.array([1, 0, 0, -1]), atol=1e-15)
    summed = advantages(batch, "several_rewards", eps=0.0)
    assert summed[0] - summed[1] < 0.02 < summed[1] - summed[2]


def test_bad_input_of_several_rewards():
    batch = batch_of(np.zeros(2), [2], [0], {"rewards": [[1.0, 2.0], [1.0, 3.0]]})
    with pytest.raises(ShapeError, match=r"'rewards'.*expected \[B, 3\] numbers"):
        advantages(batch, "several_rewards", weights=(1, 2, 3))
    with pytest.raises(BatchError, match=r"'rewards'.*expected one row throughout .* at step 1"):
        advantages(batch, "several_rewards", rows="episode")
    for weights in ((), "1", [1.0, math.nan], None, 3.0):
        with pytest.raises(EstimatorError, match=r"SeveralRewards\.weights.*expected"):
            advantages(batch, "several_rewards", weights=weights)
    with pytest.raises(EstimatorError, match=r"'several_rewards'.* beside it, got penalty 'k1'"):
        pg.estimator(
            "policy_gradient",
            advantage="several_rewards",
            critic=None,
            penalty={"name": "k1", "place": "reward"},
        )


# The same signals as the classes that write them out.

PAIRS = {
    "vtrace": (
        "vtrace",
        {"rho_bar": 1.1, "c_bar": 0.9, "trace_lambda": 0.9},
        {"advantage": {"name": "vtrace", "rho_bar": 1.1, "c_bar": 0.9, "trace_lambda": 0.9}},
    ),
    "n-step": (
        "actor_critic",
        {"advantage": "n_step", "n_steps": 3},
        {"advantage": {"name": "n_step", "n": 3}},
    ),
    "td": ("actor_critic", {"advantage": "td"}, {"advantage": "td"}),
    **{
        f"returns, {baseline}, {to_go}": (
            "reinforce",
            {"baseline": baseline, "baseline_value": 0.3, "reward_to_go": to_go},
            {
                "advantage": {
                    "name": "returns",
                    "baseline": baseline,
                    "baseline_value": 0.3,
                    "reward_to_go": to_go,
                }
            },
        )
        for baseline in ("none", "constant", "mean", "leave_one_out", "optimal", "value")
        for to_go in (True, False)
    },
}


@pytest.mark.parametrize("label", PAIRS)
def test_parts_are_the_classes_that_write_them_out(label):
    name, options, fields = PAIRS[label]
    plain = pg.estimator(name, **options)
    parts = pg.estimator("policy_gradient", objective="score", **fields)
    spec = pg.PolicySpec(pg.MLP(4, (8, 6)), pg.Categorical(4), "separate")
    policy, batch = Case("", spec, plain, "float64", 5).make("numpy")
    expected, actual = (pg.signals(policy, estimator, batch) for estimator in (plain, parts))
    for signal, value in expected.values.items():
        np.testing.assert_array_equal(actual[signal], value, signal)
    if name == "reinforce":
        summed = dataclasses.replace(cast("Any", parts), reduction="trajectory")
        assert summed.claims.unbiased == plain.claims.unbiased


def test_the_group_baseline_of_reinforce_pp_is_a_preset():
    options = {"kl_coefficient": 0.1, "gamma": 0.95}
    plain = pg.estimator("reinforce_pp", baseline="group", **options)
    preset = pg.estimator("reinforce_pp_baseline", **options)
    spec = pg.PolicySpec(pg.MLP(4, (8, 6)), pg.Categorical(4), "separate")
    policy, batch = Case("", spec, plain, "float64", 5).make("numpy")
    left, right = (pg.gradient(policy, estimator, batch).numpy() for estimator in (plain, preset))
    for parameter, value in left.items():
        np.testing.assert_allclose(right[parameter], value, rtol=1e-11, atol=1e-15)


def test_appo_leaves_the_ratio_to_its_objective():
    appo = pg.estimator("appo", c_bar=0.9)
    spec = pg.PolicySpec(pg.MLP(4, (8, 6)), pg.Categorical(4), "separate")
    policy, batch = Case("", spec, appo, "float64", 5).make("numpy")
    weighted = pg.estimator(
        "policy_gradient", advantage={"name": "vtrace", "c_bar": 0.9}, objective="clip"
    )
    plain, signals = (pg.signals(policy, estimator, batch) for estimator in (appo, weighted))
    np.testing.assert_array_equal(plain["return_"], signals["return_"])
    log_prob = policy.evaluate(batch, ("log_prob",))["log_prob"]
    rho = np.minimum(np.exp(log_prob - batch.log_probs), 1.0)
    np.testing.assert_allclose(signals["advantage"], rho * plain["advantage"], rtol=1e-13)


# The kit's reference implementations.


class Scaled(PolicyGradient):
    """A composition whose advantages are slightly too large."""

    def signals(self, batch, evaluate):
        signals = dict(super().signals(batch, evaluate))
        return signals | {"advantage": 1.0001 * signals["advantage"]}


@pytest.mark.parametrize("name", ADVANTAGES)
def test_the_reference_tells_a_wrong_advantage_from_a_right_one(name):
    hold_to_parent(Scaled)
    # In the other case no group has a mean above 0, and the gradient is 0.
    seed = 3 if name == "success_normalised" else 5
    for cls, agrees in ((PolicyGradient, True), (Scaled, False)):
        estimator = cls(advantage=name, objective="score")
        spec = pg.PolicySpec(pg.MLP(4, (6,)), pg.Categorical(3), "separate")
        policy, batch = Case("", spec, estimator, "float64", seed).make("numpy")
        assert estimator_form(estimator) is not None
        assert pg.check(policy, estimator, batch).agrees is agrees


def test_a_gradient_of_nothing_can_be_checked():
    estimator = pg.estimator("maxrl")
    spec = pg.PolicySpec(pg.MLP(4, (6,)), pg.Categorical(3), "separate")
    policy, batch = Case("", spec, estimator, "float64", 5).make("numpy")
    assert pg.gradient(policy, estimator, batch).norm() == 0
    assert pg.check(policy, estimator, batch).agrees


def test_the_reference_serves_every_advantage():
    assert set(ADVANTAGES) == set(registry().names("advantages"))


# The functions of `pgcore.returns`.


def test_weighted_means_share_a_number():
    numbers, weights = np.array([3, 1, 3, 1, 8]), np.array([1.0, 0.0, 3.0, 0.0, 2.0])
    actual = weighted_means(np.array([2.0, 5.0, 6.0, 7.0, 0.1]), weights, numbers)
    assert actual.tolist() == [5.0, 0.0, 5.0, 0.0, 0.1]
    equal = weighted_means(np.full(9, 0.1), np.linspace(0.1, 0.7, 9), np.zeros(9, int))
    assert equal.tolist() == [0.1] * 9


def test_centres_and_leads():
    assert weighted_centre(np.full(5, 0.1), np.arange(1.0, 6.0)).tolist() == [0.0] * 5
    assert best_over_second(np.array([3.0, 3.0, 1.0])).tolist() == [0.0, 0.0, 0.0]
    x, weights = RNG.standard_normal(5), np.arange(1.0, 6.0)
    expected = [np.average(np.delete(x, i), weights=np.delete(weights, i)) for i in range(5)]
    np.testing.assert_allclose(leave_one_out_mean(x, weights), expected, rtol=1e-13)
    with pytest.raises(BatchError, match=r"leave_one_out_mean: expected at least 2 episodes"):
        leave_one_out_mean(x[:1], weights[:1])


# Bad options.


@pytest.mark.parametrize(
    ("name", "option", "value", "rule"),
    [
        ("n_step", "n", 0, "an integer of at least 1"),
        ("td", "gamma", 1.5, r"a number in \[0, 1\]"),
        ("vtrace", "pg_rho_bar", 0.0, r"a number above 0 or math\.inf"),
        ("vtrace", "bootstrap", "value", "one of 'target', 'mixed'"),
        ("vtrace", "weighted", 1, "True or False"),
        ("gpg", "norm", 0.0, "a positive number"),
        ("group_relative", "eps", -1e-8, "a finite number of at least 0"),
        ("group_relative", "count_masked", "no", "True or False"),
        ("group_relative", "lone", "none", "one of 'zero', 'raw', 'error'"),
        ("gpg", "scale", "std", "one of 'group', 'batch', 'none'"),
        ("several_rewards", "first", "both", "one of 'sum', 'normalise'"),
        ("group_returns", "gamma", -0.1, r"a number in \[0, 1\]"),
        ("optimal_token_baseline", "corrected", None, "True or False"),
    ],
)
def test_options_that_cannot_be_are_refused(name, option, value, rule):
    with pytest.raises(EstimatorError, match=rf"\.{option}: expected {rule}, got"):
        pg.estimator("policy_gradient", advantage={"name": name, option: value})


def test_an_advantage_without_a_target_has_no_critic():
    with pytest.raises(EstimatorError, match=r"an advantage with a target R .*'given'"):
        pg.estimator("policy_gradient", advantage="given", critic="squared")


# Any episodes and options: a finite advantage, or an error of pgcore's.

OPTIONS = st.fixed_dictionaries(
    {
        "lone": st.sampled_from(["zero", "raw", "error"]),
        "count_masked": st.booleans(),
        "scale": st.sampled_from(["group", "batch", "none"]),
        "eps": st.sampled_from([0.0, 1e-8, 1.0]),
        "ddof": st.sampled_from([0, 1]),
    }
)
EPISODES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(0, 2), st.booleans(), st.floats(-1e300, 1e300)),
    min_size=1,
    max_size=6,
)
UNSCALED = ("group_returns", "optimal_token_baseline")


@settings(max_examples=60, deadline=None)
@given(EPISODES, OPTIONS, st.sampled_from([*RELATIVE, "several_rewards", *UNSCALED]), st.booleans())
def test_any_episodes_have_finite_advantages_or_an_error(episodes, options, name, padded):
    lengths, groups, masks, rewards = (list(column) for column in zip(*episodes, strict=True))
    steps = np.repeat(rewards, lengths)
    extras = {
        "squared_probs": np.full(len(steps), 0.5),
        "rewards": np.stack([steps, -steps], axis=1),
    }
    if not options["count_masked"]:
        extras["loss_mask"] = np.repeat(masks, lengths)
    log_probs = np.full(len(steps), math.log(0.5))
    if name in UNSCALED:
        options = {key: options[key] for key in ("lone", "count_masked")}
    try:
        batch = batch_of(steps, lengths, groups, extras, log_probs=log_probs)
        actual = advantages(batch.pad(len(steps) + 2) if padded else batch, name, **options)
    except PgcoreError:
        return
    assert np.isfinite(actual).all()
    if not options["count_masked"]:
        # Those that do not count have nothing, but the returns of a part before its baseline.
        assert not actual[: len(steps)][~extras["loss_mask"]].any()
