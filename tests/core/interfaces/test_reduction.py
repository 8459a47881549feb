"""Reductions: by name, mapping or instance, with totals of a whole; anybody's through the registry."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgcore as pg
import pgcore_exact as exact
from pgcore.errors import BatchError, EstimatorError, PgcoreError, UnknownNameError
from pgcore.interfaces.reduction import checked_weights
from pgcore_check.planted import first_disagreement
from pgcore_check.proofs import variants

NAMES = ("step", "trajectory", "episode_step", "group_step", "constant", "sum", "weighted")

PLUGIN = """
@hookimpl
def pgcore_reductions():
    return [Provider("later", "later_impl:Later", "steps weigh as much as their number")]
"""

IMPLEMENTATION = """
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

import pgcore as pg
from pgcore.validation.fields import Positive


def example(batch, shape, rng):
    return rng.uniform(0.5, 1.0, shape)


@dataclass(frozen=True)
class Later(pg.Reduction):
    power: Positive = 1.0
    name: ClassVar[str] = "later"
    extras: ClassVar = {"tilt": pg.Extra("[B] float", "a factor", example)}

    def weights(self, batch, totals):
        real = np.ones(batch.num_steps) if batch.step_weights is None else batch.step_weights
        steps = totals.whole("steps", int(real.sum()))
        return real * batch.extras["tilt"] * (batch.step_in_episode + 1.0) ** self.power / steps
"""


def make_batch(lengths, **fields):
    steps = sum(lengths)
    return pg.Batch(
        observations=np.eye(steps),
        actions=np.arange(steps) % 2,
        rewards=np.arange(steps, dtype=float),
        episode_lengths=lengths,
        terminated=[True] * len(lengths),
        **fields,
    )


def policy_for(batch):
    return pg.policy(
        pg.PolicySpec(pg.Linear(batch.observations.shape[1]), pg.Categorical(2)), dtype="float64"
    )


def reduction(value):
    return pg.Reduction.of("reduction", value)


def weights(value, batch, **totals):
    return checked_weights(reduction(value), batch, pg.Totals(**totals))


# Names and options


def test_a_field_takes_an_instance_a_name_or_a_mapping():
    constant = pg.ConstantDivisor(1024)
    for value in (constant, {"name": "constant", "divisor": 1024}):
        assert pg.estimator("reinforce", reduction=value).reduction == constant
    assert pg.estimator("reinforce", reduction="sum").reduction == pg.StepSum()
    inner = {"name": "weighted", "inner": {"name": "constant", "divisor": 2}}
    assert reduction(inner) == pg.WeightedSteps(pg.ConstantDivisor(2.0))
    assert pg.estimator("actor_critic").reduction == pg.Reduction.STEP
    assert hash(pg.estimator("reinforce", reduction="group_step"))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (
            "mean",
            EstimatorError,
            r"Reinforce\.reduction: expected one of 'constant', .*, got 'mean'",
        ),
        ({"divisor": 3}, EstimatorError, "expected one of .*, got None"),
        (7, EstimatorError, "expected one of .*, got 7"),
        ("constant", EstimatorError, r"expected constant with values for divisor, got \[\]"),
        ({"name": "constant", "divisor": 0}, EstimatorError, "expected a positive number, got 0"),
        ({"name": "constant", "divider": 2}, UnknownNameError, "got 'divider'; .*divisor"),
        ({"name": "weighted", "inner": "x"}, EstimatorError, r"WeightedSteps\.inner: expected one"),
    ],
)
def test_other_values_are_refused(value, error, words):
    with pytest.raises(error, match=words):
        pg.estimator("reinforce", reduction=value)


def test_registered_reductions_are_listed(pgcore):
    _, printed, _ = pgcore("list", "reductions")
    assert all(name in printed for name in NAMES)


# Worked numbers


def test_answers_of_one_and_three_tokens():
    batch = make_batch([1, 3])
    for value, expected in (
        ("episode_step", [1 / 2, *[1 / 6] * 3]),
        ("step", [1 / 4] * 4),
        ({"name": "constant", "divisor": 4}, [1 / 8] * 4),
        ("sum", [1.0] * 4),
        ("trajectory", [1 / 2] * 4),
    ):
        np.testing.assert_allclose(weights(value, batch), expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("name", "value", "loss"),
    [
        ("grpo", "episode_step", 0.0),
        ("grpo", "step", 0.35355339),
        ("dr_grpo", {"name": "constant", "divisor": 4}, 0.125),
    ],
)
def test_losses_of_rewards_one_and_zero(name, value, loss):
    # Rewards 1 and 0, and a ratio of 1.
    batch = make_batch([1, 3], extras={"group": np.zeros(4, int)})
    batch = pg.Batch(
        observations=batch.observations,
        actions=batch.actions,
        rewards=[1.0, 0.0, 0.0, 0.0],
        episode_lengths=[1, 3],
        terminated=[True, True],
        extras=batch.extras,
    )
    estimator = pg.estimator(name, reduction=value)
    assert pg.gradient(policy_for(batch), estimator, batch).loss == pytest.approx(loss, abs=1e-8)


def test_prompts_of_two_and_eight_tokens():
    batch = make_batch([1, 1, 3, 5], extras={"group": [0, 0, *[1] * 8]})
    np.testing.assert_allclose(weights("step", batch), [1 / 10] * 10, rtol=1e-15)
    np.testing.assert_allclose(weights("group_step", batch), [1 / 4] * 2 + [1 / 16] * 8, rtol=1e-15)


def test_micro_batches_of_losses_four_and_zeros_make_one():
    whole = make_batch([1, 3])
    parts = [whole.episodes([0]), whole.episodes([1])]
    losses = [np.array([4.0]), np.zeros(3)]
    pairs = list(zip(parts, losses, strict=True))
    assert sum(weights("step", part, steps=4) @ loss for part, loss in pairs) == 1.0
    # The known mistake: a mean of means.
    assert sum(weights("step", part) @ loss for part, loss in pairs) / 2 == 2.0


def test_weights_of_the_user_multiply():
    extras = {"weights": [0.0, 2.0, 1.0, 0.5]}
    batch = make_batch([1, 3], extras=extras)
    np.testing.assert_allclose(weights("weighted", batch), np.array(extras["weights"]) / 4)
    of_user = weights({"name": "weighted", "inner": "sum"}, batch)
    np.testing.assert_array_equal(of_user, extras["weights"])


# Parts of a whole

batches = st.lists(st.integers(1, 4), min_size=2, max_size=6)


@settings(max_examples=30, deadline=None)
@given(batches, st.data())
@pytest.mark.parametrize("name", NAMES)
def test_parts_with_the_wholes_totals_have_its_weights(name, lengths, data):
    value = {"name": name, "divisor": 3.0} if name == "constant" else name
    # Groups of two neighbours, which stay together.
    group = np.repeat(np.arange(len(lengths)) // 2, lengths)
    user = np.random.default_rng(0).uniform(0.0, 2.0, sum(lengths))
    whole = make_batch(lengths, extras={"group": group, "weights": user})
    cut = 2 * data.draw(st.integers(1, (len(lengths) - 1) // 2)) if len(lengths) > 2 else 2
    numbers = np.arange(len(lengths))
    parts = [whole.episodes(part) for part in (numbers[:cut], numbers[cut:]) if len(part)]
    padding = data.draw(st.integers(0, 2))
    totals = {"steps": sum(lengths), "episodes": len(lengths), "groups": group[-1] + 1}
    found = [
        weights(value, part.pad(part.num_steps + padding), **totals)[: part.num_steps]
        for part in parts
    ]
    np.testing.assert_allclose(np.concatenate(found), weights(value, whole), rtol=1e-15)


@pytest.mark.parametrize("name", NAMES)
def test_padding_weighs_nothing(name):
    value = {"name": name, "divisor": 3.0} if name == "constant" else name
    extras = {"group": [0, 1, 1, 1], "weights": np.arange(4.0)}
    batch = make_batch([1, 3], extras=extras)
    padded = weights(value, batch.pad(7))
    np.testing.assert_array_equal(padded, [*weights(value, batch), 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("value", "totals", "words"),
    [
        (
            "step",
            {"steps": 3},
            "Totals.steps: expected at least the 4 steps of the batch, its part",
        ),
        ("step", {"steps": 9, "episodes": 1}, "Totals.episodes: expected at least the 2 episodes"),
        ("sum", {"groups": 1}, "Totals.groups: expected at least the 2 groups of the batch"),
        ("trajectory", {"steps": 9}, r"Totals\.episodes: expected the number .*, got None; pass"),
        ("group_step", {"steps": 9}, r"Totals\.groups: expected the number of groups of the whole"),
    ],
)
def test_totals_that_do_not_cover_the_part_are_refused(value, totals, words):
    batch = make_batch([1, 3], extras={"group": [0, 1, 1, 1]})
    estimator = pg.estimator("reinforce", reduction=value)
    with pytest.raises(BatchError, match=words):
        pg.signals(policy_for(batch), estimator, batch, totals=pg.Totals(**totals))


@pytest.mark.parametrize("number", [0, -1, 1.5, "4", True])
def test_totals_are_counts(number):
    with pytest.raises(BatchError, match=r"Totals\.steps: expected an integer of at least 1, got"):
        pg.Totals(steps=number)


def test_totals_of_another_type_are_refused():
    batch = make_batch([1, 3])
    with pytest.raises(BatchError, match="signals totals: expected a Totals such as"):
        pg.signals(policy_for(batch), pg.estimator("reinforce"), batch, totals=4)  # pyright: ignore[reportArgumentType]


@settings(max_examples=30, deadline=None)
@given(batches, st.data())
@pytest.mark.parametrize("name", NAMES)
def test_slices_of_signals_have_the_weights_of_the_whole(name, lengths, data):
    value = {"name": name, "divisor": 3.0} if name == "constant" else name
    group = np.repeat(np.arange(len(lengths)) // 2, lengths)
    user = np.resize([0.0, 2.0, 1.0], sum(lengths))
    batch = make_batch(lengths, extras={"group": group, "weights": user})
    batch = batch.pad(batch.num_steps + data.draw(st.integers(0, 2)))
    estimator = pg.estimator("reinforce", reduction=value)
    signals = pg.signals(policy_for(batch), estimator, batch)
    index = data.draw(st.lists(st.integers(0, batch.num_steps - 1), min_size=1, unique=True))
    np.testing.assert_array_equal(signals.part(index).weights, signals.weights[index])
    members = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True))
    _, steps = batch.episode_steps(members)
    part = signals.episode_part(batch, members)
    np.testing.assert_array_equal(part.weights, signals.weights[steps])
    np.testing.assert_array_equal(part["advantage"], signals["advantage"][steps])


def test_a_minibatchs_scale_counts_steps_that_the_user_weighs_0():
    batch = make_batch([2, 2], extras={"weights": [0.0, 1.0, 1.0, 1.0]}).pad(6)
    estimator = pg.estimator("reinforce", reduction="weighted")
    signals = pg.signals(policy_for(batch), estimator, batch)
    np.testing.assert_allclose(signals.steps([0, 1]).weights, [0.0, 1 / 2])
    np.testing.assert_allclose(signals.steps([2, 3, 4]).weights, [1 / 2, 1 / 2, 0.0])


def test_an_index_out_of_range_names_the_slice():
    batch = make_batch([1, 3])
    signals = pg.signals(policy_for(batch), pg.estimator("reinforce"), batch)
    with pytest.raises(EstimatorError, match=r"Signals\.part: expected step numbers in \[0, 4\)"):
        signals.part([4])
    with pytest.raises(BatchError, match=r"Batch\.episodes: expected episode numbers in \[0, 2\)"):
        signals.episode_part(batch, [2])
    whole = pg.signals(policy_for(batch), pg.estimator("gspo", group="all"), batch)
    with pytest.raises(
        EstimatorError, match=r"Signals\.part: expected the signals of a loss of sin"
    ):
        whole.part([0])


# Extras


def test_an_estimator_reads_its_reductions_extras():
    estimator = pg.estimator("reinforce", reduction={"name": "weighted", "inner": "group_step"})
    assert estimator.used_extras.keys() == {"group", "weights"}
    batch = make_batch([1, 3], extras={"weights": np.ones(4)})
    with pytest.raises(BatchError, match=r"Batch.extras\['group'\]: expected \[B\] integers"):
        pg.signals(policy_for(batch), estimator, batch)


def test_negative_weights_name_the_step():
    batch = make_batch([1, 3], extras={"weights": [1.0, 1.0, -0.5, 1.0]})
    with pytest.raises(
        BatchError, match=r"expected numbers of at least 0, got -0\.5 at step 2; leav"
    ):
        pg.signals(policy_for(batch), pg.estimator("reinforce", reduction="weighted"), batch)


RATIOS = {"advantage": "returns", "critic": None, "objective": "ratio"}


@pytest.mark.parametrize("name", ["sequence", "sequence_product", "gspo"])
def test_terms_of_whole_episodes_need_equal_weights_of_their_steps(name):
    reduction = {"name": "weighted", "inner": "sum"}
    if name.startswith("sequence"):
        estimator = pg.estimator("policy_gradient", level=name, reduction=reduction, **RATIOS)
    else:
        estimator = pg.estimator(name, reduction=reduction, group="all")
    assert estimator.couples_steps

    def signals_of(weights):
        batch = make_batch([1, 2], extras={"weights": weights}, log_probs=np.full(3, -1.0))
        batch = batch.pad(5)
        return pg.signals(policy_for(batch), estimator, batch)

    assert signals_of([2.0, 0.5, 0.5]).weights[:3].tolist() == [2.0, 0.5, 0.5]
    # A weight of 0 at a real step is no padding.
    for weights in ([1.0, 1.0, 0.0], [1.0, 0.25, 0.5]):
        with pytest.raises(
            EstimatorError,
            match=r"with the reduction weighted: expected equal weights .* at step [12] and",
        ):
            signals_of(weights)


def test_a_ratio_of_the_episode_that_is_held_constant_takes_any_weights():
    fields = {"level": "gspo_token", "reduction": "weighted", **RATIOS}
    estimator = pg.estimator("policy_gradient", **fields)
    batch = make_batch([1, 2], extras={"weights": [1.0, 1.0, 0.0]}, log_probs=np.full(3, -1.0))
    pg.signals(policy_for(batch), estimator, batch)
    assert not estimator.couples_steps


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.lists(st.floats() | st.integers(-3, 3), min_size=4, max_size=4),
    st.lists(st.integers(-2, 2), min_size=4, max_size=4),
)
def test_only_errors_of_pgcore_are_raised(name, user, group):
    value = {"name": name, "divisor": 3.0} if name == "constant" else name
    try:
        batch = make_batch([1, 3], extras={"weights": user, "group": group})
        pg.signals(policy_for(batch), pg.estimator("reinforce", reduction=value), batch)
    except PgcoreError:
        pass


# Anybody's


@pytest.fixture
def later(site):
    site.plugin("later_plugin", PLUGIN)
    site.module("later_impl", IMPLEMENTATION)
    site.distribution("later-dist", {"later": "later_plugin"})
    return pg.estimator("reinforce", reduction={"name": "later", "power": 2}).reduction


def test_a_strangers_reduction_goes_by_its_name(later):
    batch = make_batch([1, 3], extras={"tilt": np.ones(4)})
    estimator = pg.estimator("reinforce", gamma=1.0, reduction=later)
    found = pg.signals(policy_for(batch), estimator, batch, totals=pg.Totals(steps=8))
    np.testing.assert_allclose(found.weights, [1 / 8, 1 / 8, 4 / 8, 9 / 8])
    with pytest.raises(BatchError, match=r"extras\['tilt'\]: expected \[B\] floats, a factor"):
        pg.signals(policy_for(batch), estimator, make_batch([1, 3]))


SPEC = pg.PolicySpec(pg.Linear(3), pg.Categorical(2), "separate")


def test_the_kit_and_the_oracle_take_a_strangers_reduction(later):
    tried = [each for each in variants("estimators").values() if each.reduction.name == "later"]
    assert len(tried) == 1
    assert first_disagreement(tried[0], SPEC)[0] is None
    estimator = pg.estimator("reinforce", gamma=1.0, reduction=later)
    assert np.isfinite(exact.audit(estimator).factor)


@pytest.mark.parametrize("label", NAMES)
def test_the_kit_finds_a_weight_that_is_slightly_off(label, monkeypatch):
    tried = variants("reductions")[label]
    estimator = pg.estimator("reinforce", reduction=tried)
    assert first_disagreement(estimator, SPEC)[0] is None
    weights = type(tried).weights

    def off(self, batch, totals):
        return weights(self, batch, totals) * (1 + 1e-12)

    monkeypatch.setattr(type(tried), "weights", off)
    stage, ratio = first_disagreement(estimator, SPEC)
    assert stage == "signals"
    assert ratio > 1e3


@pytest.mark.parametrize(
    ("value", "factor"),
    [("sum", 0.5), ({"name": "constant", "divisor": 4.0}, 4.0), ("trajectory", 1.0)],
)
def test_the_oracle_rescales_sums_by_their_own_factor(value, factor):
    found = exact.audit(pg.estimator("reinforce", gamma=1.0, reduction=value), batch=2)
    assert found.factor == pytest.approx(factor, rel=1e-14)
    assert found.rescaled < 1e-12


BROKEN = {
    "shape": (
        "np.ones(batch.num_episodes)",
        r"expected \[4\] floats, one for each step, got \[2\]",
    ),
    "kind": ("np.ones(batch.num_steps, int)", r"expected \[4\] floats.*, got \[4\] int64"),
    "sign": (
        "-np.ones(batch.num_steps)",
        "expected finite numbers of at least 0, got -1.0 at step 0",
    ),
    "infinite": (
        "np.full(batch.num_steps, np.inf)",
        "expected finite numbers .*, got inf at step 0",
    ),
    "nan": ("np.full(batch.num_steps, np.nan)", "expected finite numbers of at least 0, got nan"),
}


@pytest.mark.parametrize("result", BROKEN)
def test_broken_weights_are_named(result):
    source, words = BROKEN[result]
    function = eval(f"lambda self, batch, totals: {source}", {"np": np})
    broken = type("Broken", (pg.StepSum,), {"weights": function, "name": "broken"})()
    with pytest.raises(EstimatorError, match=rf"broken\.weights: {words}"):
        checked_weights(broken, make_batch([1, 3]))


def test_weights_at_padding_are_named():
    def everywhere(self, batch, totals):
        return np.ones(batch.num_steps)

    broken = type("Broken", (pg.StepSum,), {"weights": everywhere})()
    with pytest.raises(
        EstimatorError, match=r"sum\.weights: expected 0 at padding, got 1.0 at step"
    ):
        checked_weights(broken, make_batch([1, 3]).pad(6))


def test_extras_of_a_reduction_are_declared():
    with pytest.raises(EstimatorError, match=r"Wrong\.extras: expected pgcore\.Extra by name"):
        type("Wrong", (pg.StepSum,), {"extras": {"x": 1}})
