"""Corrections for a rollout policy, masks, and the objectives that lean on them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError, NonFiniteError, PgcoreError, ShapeError
from pgcore.xp.numpy import host
from pgcore_check.cases.cases import Case
from pgcore_derive.differences import LIMIT, differences
from pgcore_estimators.covariances import covariances
from pgcore_estimators.parts.dppo import DPPOTV
from pgcore_estimators.parts.vespo import GammaWeight

GROUP = {"advantage": "group_relative", "critic": None}
RETURNS = {"advantage": "returns", "critic": None}
SPEC = pg.PolicySpec(pg.MLP(4, (8, 6)), pg.Categorical(4), "separate")


def composed(**fields):
    return pg.estimator("policy_gradient", **fields)


def policy_of(critic="none"):
    return pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2), critic), dtype="float64")


def steps(rewards, lengths, extras=None, **fields):
    """Return a batch of a table of one state; episodes terminate."""
    count = len(rewards)
    options = {"terminated": np.ones(len(lengths), bool), "log_probs": np.full(count, -1.0)}
    return pg.Batch(
        observations=np.zeros(count, int),
        actions=np.arange(count) % 2,
        rewards=rewards,
        episode_lengths=lengths,
        extras=extras,
        **options | fields,
    )


def case_of(estimator, backend="numpy", padding=0):
    return Case("", SPEC, estimator, "float64", 5).make(backend, padding=padding)


def signals_of(batch, policy=None, **fields):
    return pg.signals(policy or policy_of(), composed(**fields), batch)


def weights_of(correction, log_probs, rollout, lengths):
    batch = steps(
        np.zeros(len(rollout)), lengths, {"rollout_log_probs": rollout}, log_probs=log_probs
    )
    return signals_of(batch, **RETURNS, correction=correction)["gain_weight"]


# Corrections


@pytest.mark.parametrize(
    ("log_prob", "loss", "slope"), [(-1.1, -2.2103, -2.2103), (-1.0, -2.4, 0.0)]
)
def test_a_truncated_correction_is_the_worked_number(log_prob, loss, slope):
    """Log-probabilities of the old policy -1.2, of the rollout policy -2; A 1, clip 0.2, C 2."""
    weight = weights_of({"name": "truncated", "cap": 2.0}, [-1.2], [-2.0], [1])
    assert weight == [2.0]
    estimator = composed(**RETURNS, correction="truncated")
    inputs = {
        "log_prob": np.array([log_prob]),
        "old_log_prob": np.array([-1.2]),
        "advantage": np.ones(1),
        "gain_weight": weight,
    }
    assert set(estimator.keywords) == inputs.keys()
    assert estimator.surrogate(host, **inputs) == pytest.approx(loss, abs=5e-5)
    assert estimator.cotangents(**inputs)["log_prob"] == pytest.approx(slope, abs=5e-5)


DPPO_OPTIONS = {"dppo_tv": {"delta": 1.0, "behaviour": "old"}}
RATIOS = {
    "token": np.exp,
    "sequence": lambda gap: np.full_like(gap, np.exp(gap.sum())),
    "geometric": lambda gap: np.full_like(gap, np.exp(gap.mean())),
}


@pytest.mark.parametrize("level", RATIOS)
@pytest.mark.parametrize("normalise", [False, True])
def test_corrections_are_their_formulas(level, normalise):
    rng = np.random.default_rng(0)
    lengths = np.array([3, 1, 4])
    old, rollout = -rng.random(8), -rng.random(8) - 0.2
    pieces = np.split(old - rollout, lengths.cumsum()[:-1])
    ratio = np.concatenate([RATIOS[level](piece) for piece in pieces])
    options = {"of": level, "normalise": normalise}
    limits = {
        "truncated": ({"cap": 1.3}, np.minimum(ratio, 1.3)),
        "masked": (
            {"low": 0.9, "high": 1.6},
            np.where((ratio >= 0.9) & (ratio <= 1.6), ratio, 0),
        ),
    }
    for name, (bounds, expected) in limits.items():
        firsts = lengths.cumsum() - lengths
        mean = expected.mean() if level == "token" else expected[firsts].mean()
        actual = weights_of({"name": name, **options, **bounds}, old, rollout, lengths)
        np.testing.assert_allclose(actual, expected / mean if normalise else expected, rtol=1e-14)
        assert 0 < np.count_nonzero(expected == ratio) < 8, "some ratios are limited"


def test_a_weight_at_its_bound_counts():
    half, two = math.log(0.5), math.log(2.0)
    actual = weights_of("masked", [half, two - 3, -1.0], [0.0, -3.0, -1.75], [3])
    np.testing.assert_allclose(actual, [0.5, 2.0, 0.0], rtol=1e-15)


def test_a_ratio_that_overflows_is_truncated_or_masked():
    for correction, expected in (("truncated", 2.0), ("masked", 0.0)):
        assert weights_of(correction, [-1.0], [-2000.0], [1]) == [expected]


def test_a_weight_of_zero_cancels_what_overflows():
    weight = np.array([1.0, 0.0])
    inputs = {"log_prob": -np.ones(2), "advantage": -np.ones(2), "gain_weight": weight}
    for objective, further in (
        ("dppo_tv", {"rollout_log_prob": np.array([-1.0, -2000.0])}),
        ("ratio", {"old_log_prob": np.array([-1.0, -2000.0])}),
    ):
        options = {"objective": {"name": objective, **DPPO_OPTIONS.get(objective, {})}}
        estimator = composed(**GROUP, **options, correction="masked")
        assert estimator.surrogate(host, **inputs, **further).tolist() == [1.0, 0.0]
        assert estimator.cotangents(**inputs, **further)["log_prob"].tolist() == [1.0, 0.0]


def test_padding_moves_no_normalised_weight():
    correction = {"name": "truncated", "cap": 1.2, "normalise": True, "of": "sequence"}
    policy, batch = case_of(composed(**GROUP, correction=correction))
    plain = signals_of(batch, policy, **GROUP, correction=correction)["gain_weight"]
    padded = signals_of(batch.pad(40), policy, **GROUP, correction=correction)["gain_weight"]
    np.testing.assert_allclose(padded[: len(plain)], plain, rtol=1e-14)


def test_bypass_takes_the_rollout_policy_for_the_old_one():
    policy, batch = case_of(pg.estimator("bypass"))
    extras = {name: batch.extras[name] for name in ("group", "rollout_log_probs")}
    fields = {
        name: getattr(batch, name)
        for name in ("observations", "actions", "rewards", "episode_lengths", "terminated")
    }
    two = pg.Batch(
        **fields,
        action_mask=batch.action_mask,
        final_observations=batch.final_observations,
        log_probs=extras["rollout_log_probs"],
        extras=extras,
    )
    left = pg.gradient(policy, pg.estimator("bypass", clip_low=0.1), batch)
    right = pg.gradient(policy, pg.estimator("grpo", clip_low=0.1), two)
    for name, value in right.numpy().items():
        np.testing.assert_allclose(left.numpy()[name], value, rtol=1e-13, atol=1e-16)
    # The old policy's own ratios are others.
    assert left.loss != pg.gradient(policy, pg.estimator("grpo", clip_low=0.1), batch).loss


def test_metrics_tell_of_the_weights():
    policy, batch = case_of(pg.estimator("tis"))
    gradient = pg.gradient(policy, pg.estimator("tis", cap=1.1), batch)
    weight = pg.signals(policy, pg.estimator("tis", cap=1.1), batch)["gain_weight"]
    size = weight.sum() ** 2 / (weight**2).sum()
    assert gradient.metrics["gain_weight_max"] == pytest.approx(1.1)
    assert gradient.metrics["gain_weight_sample_size"] == pytest.approx(size)
    assert 1 < size < len(weight)


@pytest.mark.parametrize(
    "fields",
    [
        {"correction": "truncated"},
        {"correction": "masked"},
        {"correction": "bypass"},
        {"mask": "off_policy_sequence"},
        {"objective": "dppo_tv"},
    ],
)
def test_a_part_for_the_rollout_policy_needs_its_log_probabilities(fields):
    rule = r"extras\['rollout_log_probs'\]: expected \[B\] numbers, .* got none; add those"
    with pytest.raises(BatchError, match=rule):
        signals_of(steps([1.0], [1]), **RETURNS, **fields)


def test_an_old_log_probability_that_is_no_number_is_no_weight():
    batch = steps([1.0, -1.0], [1, 1], {"rollout_log_probs": [-1.0, -1.0]}, log_probs=None)
    estimator = composed(**RETURNS, objective="score", correction="masked")
    with pytest.raises(NonFiniteError, match=r"signals\['gain_weight'\].* at step 1"):
        pg.signals(estimator, batch, log_prob=[-1.0, np.nan])


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(EstimatorError, match=r"correction 'masked': expected low of at most high"):
        composed(correction={"name": "masked", "low": 3.0})
    with pytest.raises(EstimatorError, match=r"mask 'clip_cov': expected low of at most high"):
        composed(mask={"name": "clip_cov", "low": 6.0})


@pytest.mark.parametrize(
    ("fields", "part", "partner"),
    [
        ({"correction": ["bypass", "truncated"]}, "correction 'bypass'", "correction 'truncated'"),
        ({"correction": ["masked", "bypass"]}, "correction 'masked'", "correction 'bypass'"),
        ({"correction": ["truncated", "masked"]}, "correction 'truncated'", "correction 'masked'"),
        (
            {"objective": "dppo_tv", "correction": "truncated"},
            "correction 'truncated'",
            "objective 'dppo_tv'",
        ),
        (
            {"objective": "dppo_kl", "correction": "masked"},
            "correction 'masked'",
            "objective 'dppo_kl'",
        ),
        (
            {"advantage": "vtrace", "mask": "zero_variance"},
            "mask 'zero_variance'",
            "advantage 'vtrace'",
        ),
        (
            {"advantage": "several_rewards", "mask": "zero_variance"},
            "advantage 'several_rewards'",
            "mask 'zero_variance'",
        ),
        *(
            ({**fields, "correction": "bypass"}, "correction 'bypass'", partner)
            for fields, partner in (
                ({"advantage": "vtrace"}, "advantage 'vtrace'"),
                ({"advantage": "optimal_token_baseline"}, "advantage 'optimal_token_baseline'"),
                ({"penalty": {"name": "k1", "place": "reward"}}, "penalty 'k1'"),
                ({"objective": {"name": "dppo_tv", "behaviour": "old"}}, "objective 'dppo_tv'"),
            )
        ),
    ],
)
def test_parts_that_correct_or_compare_twice_are_refused(fields, part, partner):
    with pytest.raises(EstimatorError, match=rf"{part}: expected .* beside it, got {partner}; "):
        composed(**{**GROUP, **fields})


# The loss mask


def test_a_masked_entry_is_the_worked_number():
    """Log-probabilities [0, 0], old ones [0, NaN], A [1, 1], mask [1, 0]."""
    batch = steps([1.0, 0.0], [2], {"loss_mask": [1, 0]}, log_probs=[0.0, np.nan])
    estimator = composed(**RETURNS, mask="loss")
    signals = pg.signals(policy_of(), estimator, batch)
    assert signals.weights.tolist() == [1.0, 0.0]
    for old in (signals["old_log_prob"], np.array([0.0, np.nan]), np.array([0.0, -np.inf])):
        inputs = {
            "log_prob": np.zeros(2),
            "old_log_prob": old,
            "advantage": np.ones(2),
            "counted": signals["counted"],
        }
        assert set(estimator.keywords) == inputs.keys()
        assert estimator.surrogate(host, **inputs).tolist() == [-1.0, 0.0]
        assert estimator.cotangents(**inputs)["log_prob"].tolist() == [-1.0, 0.0]


ANYTHING = {
    "token": {"objective": "clip", "penalty": {"name": "k3", "ratio": "differentiated"}},
    "sequence": {"level": "sequence", "correction": "truncated", "reduction": "episode_step"},
    "product": {"level": "sequence_product", "objective": "vespo", "reduction": "trajectory"},
    "gspo_token": {"level": "gspo_token", "entropy_coefficient": 0.1},
    "limited": {"objective": {"name": "gmpo", "low": 0.1, "high": 0.1}, "level": "sequence"},
    "rollout": {
        "objective": {"name": "dppo_kl", "delta": 0.01, "behaviour": "old"},
        "correction": "masked",
    },
    "reward": {"penalty": {"name": "k1", "place": "reward"}},
    "critic": {
        "advantage": "gae",
        "critic": {"name": "clipped"},
        "normalise": "batch",
        "correction": "truncated",
    },
}


def masked_and_without(fields, hole=np.nan):
    """Return policy, estimators, and a masked batch beside the one without the masked steps.

    Masked entries of everything that was recorded are `hole`.
    """
    masked = composed(**{**GROUP, **fields}, mask="loss")
    plain = composed(**{**GROUP, **fields})
    policy, batch = case_of(masked)
    mask = batch.extras["loss_mask"]
    names = ("observations", "actions", "rewards", "log_probs", "values", "action_mask")
    whole = {name: getattr(batch, name) for name in names}
    whole["rewards"] = np.where(mask, batch.rewards, 0.0)
    part = {name: value[mask] for name, value in whole.items()}
    for name in ("log_probs", "values"):
        whole[name] = np.where(mask, whole[name], hole)
    ends = {name: getattr(batch, name) for name in ("terminated", "final_observations")}
    extras = {k: x for k, x in batch.extras.items() if k not in ("loss_mask", "reference")}
    holes = {k: np.where(mask, x, hole) if x.dtype.kind == "f" else x for k, x in extras.items()}
    left = pg.Batch(
        **whole, **ends, episode_lengths=batch.episode_lengths, extras={**holes, "loss_mask": mask}
    )
    right = pg.Batch(
        **part,
        **ends,
        episode_lengths=np.add.reduceat(mask, batch.episode_starts, dtype=int),
        extras={k: x[mask] for k, x in extras.items()},
    )
    return policy, masked, plain, left, right, mask


@pytest.mark.parametrize("label", ANYTHING)
@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_masked_steps_are_no_steps_whatever_stands_there(label, hole):
    policy, masked, plain, left, right, mask = masked_and_without(ANYTHING[label], hole)
    actual, expected = pg.gradient(policy, masked, left), pg.gradient(policy, plain, right)
    assert actual.loss == pytest.approx(expected.loss, rel=1e-12)
    assert np.all(actual.terms()[~mask] == 0.0)
    np.testing.assert_allclose(actual.terms()[mask], expected.terms(), rtol=1e-12)
    for name, value in expected.numpy().items():
        np.testing.assert_allclose(actual.numpy()[name], value, rtol=1e-11, atol=1e-15)
    for name, figure in expected.metrics.items():
        assert actual.metrics[name] == pytest.approx(figure, rel=1e-9), name


@pytest.mark.parametrize("label", ANYTHING)
def test_masked_steps_are_no_steps_in_torch(label):
    torch = pytest.importorskip("torch")
    assert torch is not None
    policy, masked, plain, left, right, _ = masked_and_without(ANYTHING[label])
    other = pg.policy(policy.spec, backend="torch", dtype="float64")
    other.load(policy.parameters())
    actual, expected = pg.gradient(other, masked, left), pg.gradient(policy, plain, right)
    for name, value in expected.numpy().items():
        np.testing.assert_allclose(actual.numpy()[name], value, rtol=1e-11, atol=1e-15)


def test_minibatches_of_a_masked_batch_add_up():
    policy, masked, _, batch, _, _ = masked_and_without(ANYTHING["token"])
    signals = pg.signals(policy, masked, batch)
    whole = pg.gradient(policy, masked, batch, signals=signals).numpy()
    total: Any = dict.fromkeys(whole, 0.0)
    counted = np.count_nonzero(signals.weights)
    for rows in (np.arange(0, 9), np.arange(9, batch.num_steps)):
        part = signals.steps(rows)
        share = np.count_nonzero(part.weights) / counted
        for name, value in (
            pg.gradient(policy, masked, batch.steps(rows), signals=part).numpy().items()
        ):
            total[name] = total[name] + share * value
    for name, value in whole.items():
        np.testing.assert_allclose(total[name], value, rtol=1e-11, atol=1e-15)


def test_rewards_of_masked_steps_are_not_lost():
    batch = steps([0.0, 5.0, 1.0, 7.0, 2.0], [3, 2], {"loss_mask": [1, 0, 0, 0, 1]})
    advantage = {"name": "returns", "gamma": 0.5}
    signals = signals_of(batch, advantage=advantage, critic=None, mask="loss")
    assert signals["advantage"].tolist() == [6.0, 0.0, 0.0, 0.0, 9.0]


def test_a_tools_step_is_no_transition():
    """Mask [1, 1, 0], rewards [0, 1, 0], values [0, 0, 100], gamma 1, lambda 0.95."""
    batch = steps([0.0, 1.0, 0.0], [3], {"loss_mask": [1, 1, 0]}, values=[0.0, 0.0, 100.0])
    fields = {"advantage": pg.GAE(1.0, 0.95), "mask": "loss"}
    signals = signals_of(batch, policy_of("separate"), **fields)
    assert signals["advantage"].tolist() == [0.95, 1.0, 0.0]


def test_a_loss_mask_of_the_wrong_shape_or_numbers_is_refused():
    rewards, lengths = [1.0, 0.0], [2]
    for mask, error, message in (
        ([1, 0, 1], ShapeError, "expected 2 rows"),
        ([[1, 0], [1, 1]], ShapeError, "expected a 1-dimensional array"),
        ([1, 2], BatchError, "expected booleans"),
    ):
        with pytest.raises(error, match=rf"extras\['loss_mask'\]: {message}"):
            steps(rewards, lengths, {"loss_mask": mask})
    with pytest.raises(BatchError, match=r"extras\['loss_mask'\]: expected \[B\] bools.* got none"):
        signals_of(steps(rewards, lengths), **RETURNS, mask="loss")


def test_an_episode_with_nothing_unmasked_is_an_error():
    batch = steps([1.0, 0.0, 2.0], [1, 2], {"loss_mask": [1, 0, 0]})
    rule = r"expected a step that counts in every episode, got none in episode 1"
    with pytest.raises(BatchError, match=rule):
        signals_of(batch, **RETURNS, mask="loss")
    left_out = {"name": "loss", "empty": "leave_out"}
    assert signals_of(batch, **RETURNS, mask=left_out).weights.tolist() == [1.0, 0.0, 0.0]
    nothing = steps([1.0, 2.0], [2], {"loss_mask": [0, 0]})
    with pytest.raises(BatchError, match=r"mask 'loss': expected a step that it keeps, got none"):
        signals_of(nothing, **RETURNS, mask=left_out)
    # Padding has no step that counts either, and is no episode.
    padded = steps([1.0, 0.0], [2], {"loss_mask": [1, 0]}).pad(5)
    assert signals_of(padded, **RETURNS, mask="loss").weights.tolist() == [1.0, 0, 0, 0, 0]


def test_only_masked_steps_may_hold_anything():
    with pytest.raises(BatchError, match=r"log_probs: expected finite numbers, got NaN at step 1"):
        steps([1.0, 0.0], [2], {"loss_mask": [0, 1]}, log_probs=[-1.0, np.nan])
    with pytest.raises(BatchError, match=r"rewards: expected finite numbers"):
        steps([1.0, np.nan], [2], {"loss_mask": [1, 0]})
    # An estimator that does not mask would read what stands there.
    batch = steps([1.0, 0.0], [2], {"loss_mask": [1, 0]}, log_probs=[-1.0, np.nan])
    with pytest.raises(
        EstimatorError, match=r"leaves out step 1, where the batch's extra 'loss_mask'"
    ):
        signals_of(batch, **RETURNS)


# Masks of whole answers


def answers(rewards, groups, lengths, **fields):
    r_t = np.zeros(sum(lengths))
    r_t[np.cumsum(lengths) - 1] = rewards
    return steps(r_t, lengths, {"group": np.repeat(groups, lengths)}, **fields)


def test_groups_of_equal_rewards_leave_the_denominator():
    batch = answers([1, 0, 3, 3, 5], [0, 0, 1, 1, 2], [1, 2, 2, 1, 2])
    every = signals_of(batch, **GROUP)
    varied = signals_of(batch, **GROUP, mask="zero_variance")
    np.testing.assert_allclose(every.weights, np.full(8, 1 / 8))
    np.testing.assert_allclose(varied.weights, [1 / 3] * 3 + [0] * 5)
    np.testing.assert_allclose(varied["advantage"], every["advantage"])
    # Nothing is left to learn from: the loss is 0, and no error ends the run.
    equal = answers([1, 1], [0, 0], [1, 1])
    estimator = composed(**GROUP, mask="zero_variance", penalty="k3")
    gradient = pg.gradient(
        policy_of(),
        estimator,
        steps(
            equal.rewards, [1, 1], {**equal.extras, "reference_log_probs": np.array([-0.1, -3.0])}
        ),
    )
    assert gradient.loss == 0.0
    assert not gradient.numpy()["network.table"].any()


def test_totals_are_of_the_steps_that_masks_leave():
    batch = answers([1, 0, 3, 3, 5, 4], [0, 0, 1, 1, 2, 2], [1, 2, 2, 1, 2, 1])
    estimator: Any = composed(**GROUP, mask="zero_variance")
    shares = [batch.episodes(numbers) for numbers in ([0, 1], [2, 3, 4, 5])]
    totals = pg.Totals(steps=sum(int(estimator.counted(share).sum()) for share in shares))
    assert totals.steps == 6
    found = [pg.signals(policy_of(), estimator, share, totals=totals).weights for share in shares]
    whole = pg.signals(policy_of(), estimator, batch).weights
    np.testing.assert_array_equal(np.concatenate(found), whole)


@pytest.mark.parametrize(
    ("count_masked", "expected"), [(True, [1.1547, -0.5774, 0]), (False, [0.7071, -0.7071, 0])]
)
def test_truncated_answers_count_in_the_baseline_or_not(count_masked, expected):
    batch = answers([1, 0, 0], [0, 0, 0], [1, 1, 1], terminated=[True, True, False])
    mask = {"name": "truncated", "count_masked": count_masked}
    signals = signals_of(batch, **GROUP, mask=mask)
    np.testing.assert_allclose(signals["advantage"], expected, atol=5e-5)
    np.testing.assert_allclose(signals.weights, [0.5, 0.5, 0])


@pytest.mark.parametrize("count_masked", [True, False])
def test_answers_without_a_step_of_the_loss_reach_no_baseline(count_masked):
    batch = answers([1, 0, 0], [0, 0, 0], [1, 1, 1]).with_extras(loss_mask=[True, True, False])
    advantage = {"name": "group_relative", "count_masked": count_masked}
    mask = {"name": "loss", "empty": "leave_out"}
    signals = signals_of(batch, advantage=advantage, critic=None, mask=mask)
    np.testing.assert_allclose(signals["advantage"], [0.7071, -0.7071, 0], atol=5e-5)


def test_a_batch_without_an_answer_for_the_baseline_is_an_error():
    batch = answers([1, 0], [0, 0], [1, 1], terminated=[False, False])
    mask = {"name": "truncated", "count_masked": False}
    with pytest.raises(BatchError, match=r"mask 'truncated': expected a step that it keeps"):
        signals_of(batch, **GROUP, mask=mask)


def test_minibatches_of_episodes_count_the_answers_that_are_left():
    batch = answers([1, 0, 0, 2], [0, 0, 0, 0], [2, 1, 3, 1], terminated=[1, 1, 0, 1])
    estimator = composed(**GROUP, mask="truncated", level="sequence", reduction="episode_step")
    policy = policy_of()
    signals = pg.signals(policy, estimator, batch)
    np.testing.assert_allclose(signals.weights, [1 / 6, 1 / 6, 1 / 3, 0, 0, 0, 1 / 3])
    parts = [signals.episodes(batch, numbers).weights for numbers in ([0, 2], [1, 3])]
    np.testing.assert_allclose(parts[0], [1 / 2, 1 / 2, 0, 0, 0])
    np.testing.assert_allclose(parts[1], [1 / 2, 1 / 2])


def test_statistics_of_a_batch_are_of_the_steps_that_count():
    """Ratios 1, 1, 2; the third answer is left out."""
    extras = {"rollout_log_probs": [-1.0, -1.0, -1.0 - math.log(2.0)]}
    batch = steps([1.0, 0.0, 0.0], [1, 1, 1], extras, terminated=[True, True, False])
    correction = {"name": "truncated", "normalise": True}
    signals = signals_of(batch, **RETURNS, mask="truncated", correction=correction)
    np.testing.assert_allclose(signals["gain_weight"], [1.0, 1.0, 0.0], rtol=1e-15)


@pytest.mark.parametrize(
    "fields",
    [
        {"mask": {"name": "entropy_quantile", "fraction": 0.3}},
        {"mask": {"name": "entropy_quantile", "denominator": "loss"}},
        {"mask": {"name": "clip_cov", "low": -0.2, "high": 2.0, "fraction": 0.4}},
        {"penalty": {"name": "kl_cov", "fraction": 0.4}},
        {"correction": {"name": "masked", "of": "sequence", "normalise": True}},
    ],
)
def test_constants_are_those_of_the_batch_without_the_steps_left_out(fields):
    masks = [fields["mask"]] if "mask" in fields else []
    masked = {**RETURNS, **fields, "mask": ["truncated", *masks]}
    policy, batch = case_of(composed(**masked))
    assert 0 < np.count_nonzero(batch.terminated) < batch.num_episodes
    within = batch.terminated[batch.episode_of_step]
    actual = signals_of(batch, policy, **masked)
    expected = signals_of(batch.episodes(batch.terminated), policy, **{**RETURNS, **fields})
    for name, value in expected.values.items():
        np.testing.assert_allclose(actual[name][within], value, rtol=1e-13, err_msg=name)
        assert not actual[name][~within].any()


# Masks of the gain


def test_off_policy_answers_of_negative_advantage_are_dropped():
    gap = np.array([0.5, 0.1, 0.5, 0.1, 1.0, -0.5])
    policy, lengths = policy_of(), [2, 1, 2, 1]  # mean gaps 0.3, 0.5, 0.55, -0.5
    batch = answers([1, 0, -1, -2], [0, 0, 0, 0], lengths, log_probs=np.full(6, -1.0))
    # The gap is to the policy that computes the signals, whatever the old one was.
    rollout = policy.evaluate(batch, ("log_prob",))["log_prob"] + gap
    batch = batch.with_extras(rollout_log_probs=rollout)
    mask = {"name": "off_policy_sequence", "delta": 0.4}
    signals = signals_of(batch, policy, **GROUP, mask=mask)
    assert (signals["advantage"] > 0).tolist() == [True, True, True, False, False, False]
    assert signals["gain_weight"].tolist() == [1, 1, 1, 0, 0, 1]
    np.testing.assert_allclose(signals.weights, np.full(6, 1 / 6))


@pytest.mark.parametrize("reduction", ["step", "episode_step", "trajectory"])
def test_the_gain_of_high_entropies_has_its_own_denominator(reduction):
    mask = {"name": "entropy_quantile", "fraction": 0.5}
    fields = {**RETURNS, "objective": "ratio", "reduction": reduction}
    policy, batch = case_of(composed(**fields, mask=mask))
    entropy = policy.evaluate(batch, ("entropy",))["entropy"]
    top = entropy >= np.quantile(entropy, 0.5)
    assert 0 < np.count_nonzero(top) < len(top)
    signals = signals_of(batch, policy, **fields, mask=mask)
    episode = batch.episode_of_step
    count = np.bincount(episode, top)
    expected = {
        "step": top / top.sum(),
        "episode_step": top / np.maximum(count, 1)[episode] / np.count_nonzero(count),
        "trajectory": top / np.count_nonzero(count),
    }[reduction]
    np.testing.assert_allclose(signals["gain_weight"] * signals.weights, expected, rtol=1e-13)
    shared = signals_of(batch, policy, **fields, mask={**mask, "denominator": "loss"})
    np.testing.assert_array_equal(shared["gain_weight"], top)


def test_a_denominator_of_its_own_is_refused_with_totals():
    options = {"name": "entropy_quantile", "fraction": 0.5}
    policy, batch = case_of(composed(**RETURNS))
    totals = pg.Totals(steps=2 * batch.num_steps)
    with pytest.raises(
        EstimatorError, match=r"expected no totals beside a denominator .* got Totals"
    ):
        pg.signals(policy, composed(**RETURNS, mask=options), batch, totals=totals)
    shared = composed(**RETURNS, mask={**options, "denominator": "loss"})
    assert pg.signals(policy, shared, batch, totals=totals).weights.sum() == pytest.approx(0.5)


def test_a_mask_by_entropy_needs_a_head_with_one():
    spec = pg.PolicySpec(pg.Linear(2), pg.SquashedGaussian(1))
    with pytest.raises(
        EstimatorError, match=r"expected a policy with log_prob, entropy, got no ent"
    ):
        composed(**RETURNS, mask="entropy_quantile").check_fits(spec)


def test_covariances_of_integer_advantages_are_those_without_padding():
    """Means 0.75 and -1.25; padding is in none, and NaN there is left out."""
    batch = pg.Batch(
        observations=np.zeros((6, 1)),
        actions=[0] * 6,
        rewards=[0.0] * 6,
        episode_lengths=[4, 2],
        terminated=[True, True],
        step_weights=[1, 1, 1, 1, 0, 0],
    )
    log_prob = np.array([-1.0, -2.0, -0.5, -1.5, math.nan, math.nan])
    advantage = np.array([1, 0, 0, 2, 0, 0])
    evaluate: Any = lambda *_: {"log_prob": log_prob}  # noqa: E731 - in a policy's place
    actual, real = covariances(batch, evaluate, advantage)
    assert actual.tolist() == [0.0625, 0.5625, -0.5625, -0.3125, 0.0, 0.0]
    assert real.tolist() == [True] * 4 + [False] * 2


def test_a_covariance_mask_takes_the_first_or_some_at_random():
    options = {"name": "clip_cov", "low": 0.01, "high": 1.5, "fraction": 0.1}
    policy, batch = case_of(pg.estimator("clip_cov"))
    log_prob = policy.evaluate(batch, ("log_prob",))["log_prob"]
    signals = signals_of(batch, policy, **GROUP, mask=options)
    advantage = signals["advantage"]
    covariance = (advantage - advantage.mean()) * (log_prob - log_prob.mean())
    candidates = np.flatnonzero((covariance >= 0.01) & (covariance <= 1.5))
    assert len(candidates) > 3, "more candidates than are taken"
    left_out = np.flatnonzero(signals["gain_weight"] == 0)
    assert left_out.tolist() == candidates[:2].tolist()
    drawn = [
        np.flatnonzero(
            signals_of(batch, policy, **GROUP, mask={**options, "seed": seed})["gain_weight"] == 0
        )
        for seed in (0, 0, 1, 2)
    ]
    assert drawn[0].tolist() == drawn[1].tolist()
    assert {len(steps) for steps in drawn} == {2}
    assert all(set(steps) <= set(candidates) for steps in drawn)
    assert len({tuple(sorted(steps)) for steps in drawn}) > 1


def test_a_covariance_penalty_is_of_the_top_fraction():
    policy, batch = case_of(pg.estimator("kl_cov"))
    estimator = pg.estimator("kl_cov", cov_fraction=0.2, kl_coefficient=0.7)
    signals = pg.signals(policy, estimator, batch)
    log_prob = policy.evaluate(batch, ("log_prob",))["log_prob"]
    advantage, old = signals["advantage"], signals["old_log_prob"]
    covariance = (advantage - advantage.mean()) * (log_prob - log_prob.mean())
    top = np.sort(np.argsort(-covariance)[: int(0.2 * len(covariance))])
    assert np.flatnonzero(signals["high_covariance"]).tolist() == top.tolist()
    distance = np.zeros(len(old))
    distance[top] = np.abs(log_prob - old)[top]
    expected = -np.exp(log_prob - old) * advantage + 0.7 * distance
    gradient = pg.gradient(policy, estimator, batch, signals=signals)
    np.testing.assert_allclose(gradient.terms(), expected, rtol=1e-12)


# Objectives


def divergences(mu, pi):
    return {
        "dppo_tv": np.abs(pi - mu),
        "dppo_kl": mu * np.log(mu / pi) + (1 - mu) * np.log((1 - mu) / (1 - pi)),
    }


@pytest.mark.parametrize("name", ["dppo_tv", "dppo_kl"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_dppo_is_the_papers(name, symmetric):
    rng = np.random.default_rng(4)
    mu, pi = rng.uniform(0.05, 0.95, (2, 400))
    advantage = rng.standard_normal(400)
    away = ((advantage > 0) & (pi > mu)) | ((advantage < 0) & (pi < mu)) | symmetric
    dropped = away & (divergences(mu, pi)[name] > 0.1)
    assert 0.1 < dropped.mean() < 0.9
    objective = {"name": name, "delta": 0.1, "symmetric": symmetric}
    estimator = composed(**GROUP, objective=objective)
    inputs = {"log_prob": np.log(pi), "rollout_log_prob": np.log(mu), "advantage": advantage}
    assert set(estimator.keywords) == inputs.keys()
    expected = np.where(dropped, 0.0, -advantage * pi / mu)
    np.testing.assert_allclose(estimator.surrogate(host, **inputs), expected, rtol=1e-13)
    np.testing.assert_allclose(estimator.cotangents(**inputs)["log_prob"], expected, rtol=1e-13)


def test_a_divergence_at_delta_does_not_exceed_it():
    inputs = {"log_prob": np.log([0.5]), "rollout_log_prob": np.log([0.25])}
    inputs["advantage"] = np.ones(1)
    delta = (np.exp(inputs["log_prob"]) - np.exp(inputs["rollout_log_prob"])).item()
    for bound, expected in ((delta, -2.0), (np.nextafter(delta, 0), 0.0)):
        estimator = pg.estimator("dppo_tv", delta=bound)
        assert estimator.surrogate(host, **inputs) == pytest.approx(expected)
        assert estimator.cotangents(**inputs)["log_prob"] == pytest.approx(expected)


def test_an_action_that_is_certain_has_a_divergence():
    for pi, mu, expected in ((0.0, 0.0, -1.0), (0.0, -1.0, 0.0), (-1.0, 0.0, -math.exp(-1.0))):
        inputs = {"log_prob": np.array([pi]), "rollout_log_prob": np.array([mu])}
        terms = composed(**GROUP, objective="dppo_kl").surrogate(
            host, **inputs, advantage=np.ones(1)
        )
        assert terms == pytest.approx(expected)


def test_dppo_refuses_densities_and_levels():
    with pytest.raises(EstimatorError, match=r"actions that cannot be listed"):
        pg.estimator("dppo_tv").check_fits(pg.PolicySpec(pg.Linear(2), pg.DiagonalGaussian(1)))
    with pytest.raises(EstimatorError, match=r"level 'sequence': .* got objective 'dppo_kl'"):
        composed(**GROUP, objective="dppo_kl", level="sequence")


def test_dppo_refuses_a_density_for_a_probability():
    batch = steps([1.0, 0.0], [2], {"rollout_log_probs": [-1.0, 0.4]})
    rule = r"extras\['rollout_log_probs'\]: expected logarithms of prob.*, got 0.4 at step 1"
    with pytest.raises(BatchError, match=rule):
        signals_of(batch, **RETURNS, objective="dppo_tv")


def test_dppo_of_two_policies_reads_the_old_one():
    policy, batch = case_of(pg.estimator("dppo_tv"))
    left = pg.signals(policy, pg.estimator("dppo_tv", behaviour="old"), batch)
    np.testing.assert_array_equal(left["rollout_log_prob"], batch.log_probs)
    assert "rollout_log_probs" not in pg.estimator("dppo_tv", behaviour="old").used_extras


@pytest.mark.parametrize(
    "objective",
    [
        {"name": "ratio"},
        {"name": "clip", "high": math.inf},
        {"name": "cispo", "high": math.inf},
        {"name": "gmpo", "high": math.inf},
        {"name": "dppo_tv"},
    ],
    ids=lambda objective: objective["name"],
)
def test_a_step_without_advantage_has_no_gradient_whatever_its_ratio(objective):
    estimator = composed(**GROUP, objective=objective)
    old = "rollout_log_prob" if objective["name"] == "dppo_tv" else "old_log_prob"
    inputs = {"log_prob": -np.ones(2), old: np.array([-1001.0, -1.0])}
    inputs["advantage"] = np.array([0.0, 1.0])
    assert estimator.surrogate(host, **inputs).tolist() == [0.0, -1.0]
    assert estimator.cotangents(**inputs)["log_prob"].tolist() == [0.0, -1.0]


def test_the_gamma_weight_is_the_papers():
    rng = np.random.default_rng(5)
    log_prob, old = -rng.random((2, 9))
    episode, lengths = np.repeat([0, 1, 2], [4, 2, 3]), [4, 2, 3]
    advantage = np.array([1.0, -0.5, 0.25])[episode]
    estimator = pg.estimator("vespo")
    inputs = {
        "log_prob": log_prob,
        "old_log_prob": old,
        "advantage": advantage,
        "episode": episode,
    }
    w = np.repeat([np.exp(piece.sum()) for piece in np.split(log_prob - old, [4, 6])], lengths)
    phi = np.where(
        advantage >= 0, math.e**3 * w**2 * np.exp(-3 * w), math.e**2 * w**3 * np.exp(-2 * w)
    )
    terms = estimator.surrogate(host, **inputs)
    np.testing.assert_allclose(terms, -phi * advantage * log_prob, rtol=1e-13)
    # The weight is constant: the derivative is the weighed score's.
    slope = estimator.cotangents(**inputs)["log_prob"]
    np.testing.assert_allclose(slope, -phi * advantage, rtol=1e-13)


@pytest.mark.parametrize("log_ratio", [-1000.0, -18.5, 20.5, 1000.0])
def test_the_gamma_weight_is_held_far_out(log_ratio):
    inputs = {"old_log_prob": np.array([-log_ratio]), "advantage": np.ones(1)}
    inputs |= {"log_prob": np.zeros(1), "episode": np.zeros(1, int)}
    w = min(max(log_ratio, math.log(1e-8)), 20.0)
    expected = -math.exp(3 * (1 - math.exp(w)) + 2 * w)
    slope = pg.estimator("vespo").cotangents(**inputs)["log_prob"]
    assert slope == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("tis", {"correction": "truncated", "reduction": "episode_step"}),
        ("icepop", {"correction": {"name": "masked", "high": 5.0}, "reduction": "episode_step"}),
        ("bypass", {"correction": "bypass", "reduction": "episode_step"}),
        ("dppo_tv", {"objective": "dppo_tv"}),
        ("vespo", {"objective": "vespo", "level": "sequence_product"}),
        ("clip_cov", {"mask": "clip_cov"}),
        ("kl_cov", {"objective": "ratio", "penalty": "kl_cov"}),
    ],
)
def test_presets_are_their_parts(name, fields):
    preset, parts = pg.estimator(name), composed(**GROUP, **fields)
    policy, batch = case_of(preset)
    left, right = pg.gradient(policy, preset, batch), pg.gradient(policy, parts, batch)
    assert left.loss == right.loss
    for parameter, value in right.numpy().items():
        np.testing.assert_array_equal(left.numpy()[parameter], value)


@pytest.mark.parametrize(
    "fields",
    [
        {"objective": "vespo", "level": "sequence_product"},
        {"objective": "dppo_tv", "mask": "loss"},
        {
            "objective": {"name": "dppo_kl", "symmetric": True, "behaviour": "old"},
            "correction": "masked",
        },
        {"mask": "loss", "level": "sequence"},
        {"penalty": "kl_cov", "mask": ["loss", "zero_variance"]},
    ],
)
def test_cotangents_are_the_derived_ones(fields):
    found = differences(composed(**GROUP, **fields))
    assert max(found.values()) <= LIMIT


@dataclass(frozen=True)
class Differentiated(GammaWeight):
    """A weight that is differentiated by mistake."""

    def gain(self, xp, log_ratio, log_prob, advantage, **inputs):
        return self._weight(xp, log_ratio, advantage) * advantage * log_prob


@dataclass(frozen=True)
class Kept(DPPOTV):
    """A slope that forgets which steps are dropped."""

    def slope(self, log_ratio, log_prob, advantage, **inputs):
        return None, advantage * np.exp(log_prob - inputs["rollout_log_prob"])


def test_planted_bugs_are_found():
    log_ratio, ones = np.array([0.3]), np.ones(1)
    inputs = {"log_prob": -ones, "old_log_prob": -ones - log_ratio, "advantage": ones}
    right = composed(**GROUP, objective="vespo").cotangents(**inputs)["log_prob"]
    wrong = composed(**GROUP, objective=Differentiated()).cotangents(**inputs)["log_prob"]
    assert abs(wrong - right) > 0.1
    found = differences(composed(**GROUP, objective=Kept()))
    assert found["log_prob"] > LIMIT


@pytest.mark.parametrize("part", ["truncated", "masked"])
def test_corrections_are_constant(part):
    """A weight that were differentiated would double the derivative, by the old policy's own."""
    policy, batch = case_of(composed(**GROUP, objective="ratio", correction=part))
    estimator = composed(**GROUP, objective="ratio", correction=part)
    gradient = pg.gradient(policy, estimator, batch)
    arguments = gradient.arguments()
    cotangents = estimator.cotangents(**arguments)
    np.testing.assert_allclose(cotangents["log_prob"], gradient.terms(), rtol=1e-13)


ENTRIES = st.one_of(
    st.sampled_from([0, 1, -1, 2, True, False, math.nan, math.inf, -math.inf, 1e308]),
    st.floats(-5, 5),
)
LISTS = st.one_of(
    st.lists(ENTRIES, min_size=0, max_size=4),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.lists(ENTRIES, min_size=3, max_size=3),
)


@settings(max_examples=60, deadline=None)
@given(
    mask=LISTS,
    rollout=LISTS,
    log_probs=st.lists(ENTRIES, min_size=3, max_size=3),
    part=st.sampled_from(["truncated", "masked", "bypass"]),
    of=st.sampled_from(["token", "sequence", "geometric"]),
)
def test_bad_input_is_an_error_of_pgcore(mask, rollout, log_probs, part, of):
    options = {} if part == "bypass" else {"of": of, "normalise": True}
    estimator = composed(**RETURNS, mask="loss", correction={"name": part, **options})
    extras = {"loss_mask": mask, "rollout_log_probs": rollout}
    try:
        batch = steps([1.0, 0.0, 2.0], [1, 2], extras, log_probs=log_probs)
        gradient = pg.gradient(policy_of(), estimator, batch)
    except PgcoreError:
        return
    assert np.isfinite(gradient.loss)
    assert all(np.isfinite(value).all() for value in gradient.numpy().values())
