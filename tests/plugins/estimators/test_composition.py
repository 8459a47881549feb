"""Compositions against the presets of the same parts, and combinations that make no sense."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError, PgcoreError, UnknownNameError
from pgcore.parts import GainMask
from pgcore.parts.presets import Preset, preset_class
from pgcore.xp.numpy import host
from pgcore_check.cases.cases import Case
from pgcore_check.proofs import hold_to_parent
from pgcore_check.reference.estimator_form import estimator_form
from pgcore_derive.differences import LIMIT, differences
from pgcore_estimators.policy_gradient import PolicyGradient
from pgcore_estimators.presets import PRESETS

GROUPED = {"advantage": "group_relative", "critic": None, "reduction": "episode_step"}
GSPO = {"objective": {"name": "clip", "low": 3e-4, "high": 4e-4}, "level": "sequence"}
HELD = {"name": "clipped", "clip": 0.2}
SUMS = {"reduction": "trajectory"}
RLOO = {"name": "group_relative", "scale": "none", "leave_one_out": True, "lone": "error"}
RELATIVE = {"name": "group_relative", "scale": "none"}


def k3(coefficient):
    return {"name": "k3", "coefficient": coefficient}


# A preset, its options, and the same composition.
PAIRS = {
    "ppo": ("ppo", {}, {"normalise": "minibatch"}),
    "ppo value clip": (
        "ppo",
        {"clip": 0.3, "value_clip": 0.2, "normalise": "batch", "entropy_coefficient": 0.01},
        {
            "objective": {"name": "clip", "low": 0.3, "high": 0.3},
            "critic": HELD,
            "normalise": "batch",
            "entropy_coefficient": 0.01,
        },
    ),
    "ppo kl": (
        "ppo",
        {"objective": "kl", "kl_coefficient": 0.7, "normalise": "none"},
        {"objective": "ratio", "penalty": {"name": "exact", "coefficient": 0.7}},
    ),
    "a2c": (
        "a2c",
        {},
        {
            "advantage": {"gae_lambda": 1.0},
            "objective": "score",
            "entropy_coefficient": 0.01,
        },
    ),
    "trpo": ("trpo", {}, {"objective": "ratio", "normalise": "batch"}),
    "reinforce": ("reinforce", {}, {"advantage": "returns", "objective": "score", **SUMS}),
    "reinforce value": (
        "reinforce",
        {"baseline": "value", "gamma": 0.9},
        {
            "advantage": {"name": "returns", "gamma": 0.9, "baseline": "value"},
            "objective": "score",
            **SUMS,
        },
    ),
    "grpo": ("grpo", {"kl_coefficient": 0.3}, {**GROUPED, "penalty": k3(0.3)}),
    "dr grpo": (
        "dr_grpo",
        {"clip_high": 0.3, "kl_coefficient": 0.1},
        {"advantage": RELATIVE, "objective": {"high": 0.3}, "penalty": k3(0.1), **SUMS},
    ),
    "gspo": ("gspo", {"clip_low": 0.2, "clip_high": 0.3}, {**GROUPED, **GSPO}),
    "cispo": (
        "cispo",
        {"clip_low": 0.1, "group": "all"},
        {
            "advantage": {"name": "group_relative", "group": "all"},
            "objective": {"name": "cispo", "low": 0.1},
        },
    ),
    "rloo": (
        "rloo",
        {"kl_coefficient": 0.1, "group": "all"},
        {
            "advantage": {**RLOO, "group": "all"},
            "objective": "score",
            "penalty": {"name": "k1", "coefficient": 0.1, "place": "reward"},
            **SUMS,
        },
    ),
}
PAIRS["gspo"][2]["objective"] = {"low": 0.2, "high": 0.3}


def composed(**fields) -> Any:
    return pg.estimator("policy_gradient", **fields)


def preset(name, **options) -> Any:
    return pg.estimator(name, **options)


def case_of(estimator, backend="numpy"):
    """Return a policy and a batch of four episodes, with all that the estimator reads."""
    spec = pg.PolicySpec(pg.MLP(4, (8, 6)), pg.Categorical(4), "separate")
    return Case("", spec, estimator, "float64", 5).make(backend)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("label", PAIRS)
def test_a_preset_is_its_composition(label, backend):
    name, options, fields = PAIRS[label]
    plain, parts = pg.estimator(name, **options), composed(**fields)
    policy, batch = case_of(plain, backend)
    expected, actual = (pg.signals(policy, estimator, batch) for estimator in (plain, parts))
    assert actual.values.keys() == expected.values.keys()
    for signal, value in expected.values.items():
        np.testing.assert_array_equal(actual[signal], value, signal)
    np.testing.assert_array_equal(actual.weights, expected.weights)
    assert set(parts.quantities) == set(plain.quantities)
    assert parts.claims.needs_critic == plain.claims.needs_critic
    assert parts.claims.whole_episodes == plain.claims.whole_episodes
    assert parts.claims.unbiased == plain.claims.unbiased
    assert parts.used_extras.keys() >= plain.used_extras.keys() - {"reference"}

    left = pg.gradient(policy, plain, batch, signals=expected)
    right = pg.gradient(policy, parts, batch, signals=actual)
    tolerance: Any = {"rtol": 1e-15 if backend == "numpy" else 1e-12, "atol": 1e-15}
    np.testing.assert_allclose(right.terms(), left.terms(), **tolerance)
    for parameter, value in left.numpy().items():
        np.testing.assert_allclose(right.numpy()[parameter], value, err_msg=parameter, **tolerance)
    for metric, figure in left.metrics.items():
        assert right.metrics[metric] == pytest.approx(figure, rel=1e-12, nan_ok=True), metric


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        (
            {"objective": "score", "level": "sequence"},
            EstimatorError,
            "level 'sequence': expected an objective of ratios beside it, got objective 'score'",
        ),
        (
            {"advantage": "group_relative", "critic": "huber"},
            EstimatorError,
            "critic 'huber': expected an advantage with a target R beside it, got advantage 'group_",
        ),
        ({"objective": "clap"}, UnknownNameError, "objective: .* got 'clap'; did you mean 'clip'"),
        (
            {"objective": {"name": "clip", "hihg": 0.3}},
            UnknownNameError,
            r"PolicyGradient\.objective clip option: .* got 'hihg'; did you mean 'high'",
        ),
        ({"objective": 3}, EstimatorError, r"PolicyGradient\.objective: expected Objective, its"),
        ({"penalty": {"coefficient": 1}}, EstimatorError, "expected Penalty, its registered name"),
        ({"level": pg.GAE()}, EstimatorError, r"PolicyGradient\.level: expected Level, its reg"),
        ({"penalty": ["k3", 1]}, EstimatorError, r"PolicyGradient\.penalty\[1\]: expected Penalty"),
        ({"normalise": "group"}, EstimatorError, r"PolicyGradient\.normalise: expected one of"),
    ],
)
def test_parts_that_do_not_meet_are_refused_where_they_are_built(fields, error, words):
    with pytest.raises(error, match=words):
        composed(**fields)


def test_a_sequence_level_refuses_minibatches_of_steps():
    policy, batch = case_of(pg.estimator("gspo"))
    signals = pg.signals(policy, composed(**GROUPED, **GSPO), batch)
    with pytest.raises(
        EstimatorError, match=r"Signals\.steps: expected the signals of a loss of s"
    ):
        signals.steps(slice(3))


def test_a_value_clip_needs_recorded_values():
    policy, batch = case_of(pg.estimator("ppo"))
    bare = pg.Batch(
        observations=batch.observations,
        actions=batch.actions,
        rewards=batch.rewards,
        episode_lengths=batch.episode_lengths,
        terminated=np.ones(batch.num_episodes, bool),
        action_mask=batch.action_mask,
    )
    with pytest.raises(BatchError, match=r"Batch\.values: .* which critic 'clipped' clips around"):
        pg.signals(policy, composed(critic="clipped"), bare)


def test_a_penalty_needs_its_reference_unless_it_is_switched_off():
    off = pg.estimator("dapo", kl_coefficient=0.0)
    assert "reference_log_probs" not in off.used_extras
    assert "reference_log_prob" not in off.keywords
    on = pg.estimator("dapo", kl_coefficient=0.1)
    policy, batch = case_of(pg.estimator("dr_grpo"))
    assert "reference_log_probs" not in batch.extras
    with pytest.raises(BatchError, match=r"'reference_log_probs'\]: expected .*coefficient to 0"):
        pg.signals(policy, on, batch)


@pytest.mark.parametrize("name", [row.name for row in PRESETS])
def test_presets_are_frozen_dataclasses_that_copy(name):
    first = preset(name)
    assert pickle.loads(pickle.dumps(first)) == first
    assert hash(first) == hash(preset(name))
    assert repr(first).startswith(f"{type(first).__name__}(")
    option, value = ("lone", "raw") if hasattr(first, "lone") else ("gamma", 0.5)
    changed = dataclasses.replace(first, **{option: value})
    assert changed != first
    assert getattr(changed.composition.advantage, option) == value
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(first, option, value)


def test_presets_are_the_general_estimator_of_their_rows():
    options = {"clip_high": 0.3, "dual": 2.5, "kl_coefficient": 0.1, "reduction": "trajectory"}
    objective = {"name": "clip", "low": 0.2, "high": 0.3, "dual": 2.5}
    general = composed(**GROUPED | SUMS, objective=objective, penalty=k3(0.1))
    assert preset("dapo", **options).composition == general.composition
    assert preset("dapo", kl_coefficient=0).composition.penalties == ()
    with pytest.raises(EstimatorError, match=r"DAPO\.clip_high: expected a number above 0"):
        preset("dapo", clip_high=-1)
    with pytest.raises(
        UnknownNameError, match=r"dapo hyper-parameter: .* did you mean 'clip_high'"
    ):
        preset("dapo", clip_hihg=1)


def test_a_coefficient_follows_the_kl_as_the_class_has_it():
    fields = {"name": "exact", "coefficient": 0.5, "target": 0.01}
    plain = preset("ppo", objective="kl", kl_coefficient=0.5, kl_target=0.01)
    parts = composed(objective="ratio", penalty=fields)
    several = composed(objective="ratio", penalty=[fields, k3(0.1)])
    for kl in (0.001, 0.01, 0.02):
        coefficient = plain.adapted({"kl": kl}).kl_coefficient
        assert parts.adapted({"kl": kl}).penalty.coefficient == coefficient
        assert several.adapted({"kl": kl}).penalty[0].coefficient == coefficient
    assert parts.adapted({"kl": 0.01}) is parts
    assert composed().adapted({}) == composed()


@pytest.mark.parametrize(
    ("parts", "options", "settings", "words"),
    [
        ({"objective": "clap"}, {}, {}, "objective: .* got 'clap'"),
        ({}, {"clip": "objective.clip"}, {}, r"Odd\.clip: .* got 'clip'"),
        ({}, {"clip": "critic.clip"}, {}, r"Odd\.clip: .* got 'critic'"),
        ({}, {"rate": "rate"}, {}, r"Odd\.rate: .* got 'rate'"),
        ({}, {}, {"rate": 1}, r"Odd\.settings: .* got 'rate'"),
        ({}, {}, {"reduction": "all"}, r"Odd\.reduction: expected one of"),
        ({}, {}, {"ddof": 2}, r"Odd\.ddof: expected one of 0, 1"),
    ],
)
def test_a_row_with_unknown_names_is_refused(parts, options, settings, words):
    parts = {"advantage": "returns", "objective": "clip", **parts}
    with pytest.raises(PgcoreError, match=words):
        preset_class(Preset("odd", "odd", parts, options, settings), "Odd", __name__)


def test_tables_without_a_name_change_options_of_the_default():
    changed = composed(objective={"high": 0.28}, advantage={"gae_lambda": 0.9})
    assert changed == composed(objective=pg.Clip(high=0.28), advantage=pg.GAE(gae_lambda=0.9))
    none = composed(objective={"dual": "none"})
    assert none.objective == pg.Clip()


@dataclass(frozen=True)
class Forgetful(type(composed().objective)):
    """A gain of another formula, which must not keep the slope of its parent."""

    name = "forgetful"

    def gain(self, xp, log_ratio, log_prob, advantage, **inputs):
        return 2.0 * super().gain(xp, log_ratio, log_prob, advantage)


@dataclass(frozen=True)
class Wrong(Forgetful):
    """A slope that is not the gain's."""

    name = "wrong"

    def slope(self, log_ratio, log_prob, advantage, **inputs):
        return advantage * np.exp(log_ratio), None


def test_a_changed_gain_does_not_inherit_a_slope():
    policy, batch = case_of(pg.estimator("ppo"))
    fields = {"critic": None, "normalise": "batch"}
    expected = pg.gradient(policy, composed(**fields), batch).scaled(2.0).numpy()
    actual = pg.gradient(policy, composed(**fields, objective=Forgetful()), batch).numpy()
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-13, err_msg=name)


def test_a_wrong_slope_is_found_at_the_stage_of_cotangents():
    policy, batch = case_of(pg.estimator("ppo"))
    report = pg.check(policy, composed(critic=None, objective=Wrong()), batch)
    assert not report.agrees
    assert "cotangents" in str(report)
    assert differences(composed(critic=None, objective=Wrong()))["log_prob"] > LIMIT
    assert differences(composed())["log_prob"] <= LIMIT


def test_the_reference_is_of_the_built_in_parts_alone():
    assert estimator_form(composed()) is not None
    assert estimator_form(composed(mask=FirstStep())) is None
    assert estimator_form(composed(objective=Forgetful())) is None


@dataclass(frozen=True)
class Shifted(PolicyGradient):
    """A composition whose advantages are those of the next step."""

    def signals(self, batch, evaluate):
        signals = dict(super().signals(batch, evaluate))
        return signals | {"advantage": np.roll(signals["advantage"], -1)}


def test_a_wrong_signal_is_found_by_the_reference():
    policy, batch = case_of(pg.estimator("ppo"))
    hold_to_parent(Shifted)
    report = pg.check(policy, Shifted(), batch)
    assert not report.agrees
    assert "signals" in str(report)


def test_an_overflow_under_a_weight_of_zero_does_no_harm():
    weighed = composed(advantage="group_relative", objective="ratio", mask=FirstStep())
    inputs = {
        "log_prob": np.zeros(2),
        "old_log_prob": np.array([0.0, -1000.0]),
        "advantage": np.ones(2),
        "gain_weight": np.array([1.0, 0.0]),
    }
    assert set(weighed.keywords) == inputs.keys()
    np.testing.assert_array_equal(weighed.surrogate(host, **inputs), [-1.0, 0.0])
    np.testing.assert_array_equal(weighed.cotangents(**inputs)["log_prob"], [-1.0, 0.0])


@dataclass(frozen=True)
class FirstStep(GainMask):
    """Only the first step of each episode."""

    name = "first_step"

    def weights(self, batch, evaluate, advantage):
        return (batch.step_in_episode == 0).astype(float)


@pytest.mark.parametrize("level", ["token", "sequence", "sequence_product", "gspo_token"])
@pytest.mark.parametrize("mask", [None, FirstStep()])
def test_every_level_has_the_derivative_of_its_definition(level, mask):
    fields = {"objective": {"name": "gmpo", "low": 0.1, "high": 0.1}, "level": level, "mask": mask}
    estimator = composed(**GROUPED, **fields)
    policy, batch = case_of(pg.estimator("grpo"))
    assert pg.check(policy, estimator, batch).agrees
    torch = pg.policy(policy.spec, backend="torch", dtype="float64")
    torch.load(policy.parameters())
    expected = pg.gradient(torch, estimator, batch).numpy()
    for name, value in pg.gradient(policy, estimator, batch).numpy().items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12, atol=1e-15, err_msg=name)


@pytest.mark.parametrize(
    "reduction", ["trajectory", {"name": "trajectory"}, pg.Reduction.TRAJECTORY]
)
def test_a_sum_over_trajectories_is_unbiased_however_it_is_given(reduction):
    fields = {"advantage": "returns", "critic": None, "objective": "score"}
    assert pg.estimator("policy_gradient", reduction=reduction, **fields).claims.unbiased
    biased = pg.estimator("policy_gradient", reduction="episode_step", **fields)
    assert not biased.claims.unbiased


@pytest.mark.parametrize(
    ("weighted", "objective", "claim"),
    [
        (True, "score", "limited"),
        (False, "score", "none"),
        (True, "ratio", "none"),
        (False, "ratio", "none"),
    ],
)
def test_vtrace_corrects_for_another_policy_with_one_ratio(weighted, objective, claim):
    advantage = {"name": "vtrace", "weighted": weighted}
    estimator = composed(advantage=advantage, objective=objective, **SUMS)
    assert estimator.claims.off_policy == claim
