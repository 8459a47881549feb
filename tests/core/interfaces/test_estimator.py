# Arguments of the wrong kind are what some of these tests are about.
# pyright: reportArgumentType=false

import math
import sys
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import ClassVar
from unittest import mock

import numpy as np
import pytest

import pgcore as pg
from pgcore.data.spec import Linear, PolicySpec
from pgcore.errors import DependencyError, EstimatorError, NonFiniteError, ShapeError
from pgcore.heads import Categorical
from pgcore.hooks import Provider
from pgcore.interfaces.estimator import AnyReduction, Claims, Estimator, Reduction
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.interfaces.signals import Signals
from pgcore.interfaces.surrogate import Surrogate
from pgcore.registry.entry_points import KINDS, Plugin
from pgcore.registry.registry import registry
from pgcore.validation.fields import Positive
from pgcore_estimators.preset_classes import PPO

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)
SPEC = PolicySpec(Linear(3), Categorical(3), "separate")


@dataclass(frozen=True)
class Base(Estimator):
    """Everything but a surrogate."""

    name: ClassVar[str] = "tiny"

    @property
    def claims(self):
        return Claims(unbiased=False, off_policy="limited", needs_critic=False, discrete_only=False)

    def signals(self, batch, evaluate):
        return {"advantage": batch.rewards}


@dataclass(frozen=True)
class Tiny(Base):
    """-log pi A, less an entropy bonus where it is wanted."""

    bonus: float = 0.0

    def uses(self, name):
        return self.bonus != 0

    def surrogate(self, xp, *, log_prob, advantage, entropy=None):
        return -log_prob * advantage - (0.0 if entropy is None else self.bonus * entropy)


def returning(**signals):
    """Return a `Tiny` whose signals are these."""

    class Given(Tiny):
        def signals(self, batch, evaluate):
            return signals

    return Given()


def evaluate(*names):
    raise AssertionError("nothing here asks the policy")


def signals_of(estimator, batch, dtype=FLOAT64):
    return Signals.of(estimator, batch, evaluate, dtype, 3)


# What a surrogate's signature says


def test_the_surrogates_keywords_are_what_it_is_given():
    assert Tiny().keywords == ("log_prob", "advantage")
    assert Tiny(bonus=0.1).keywords == ("log_prob", "advantage", "entropy")
    assert Tiny(bonus=0.1).quantities == ("log_prob", "entropy")
    assert Tiny().signal_names == {"advantage"}


def test_a_keyword_with_a_default_is_given_by_default():
    class Defaulted(Base):
        def surrogate(self, xp, *, log_prob, kl=None):
            return log_prob

    assert Defaulted().quantities == ("log_prob", "kl")
    assert Defaulted().signal_names == {"reference"}, "kl measures from it"


def positional(self, xp, log_prob): ...
def variadic(self, xp, *, log_prob, **others): ...
def open_ended(self, xp, *log_prob): ...
def without_xp(self, *, log_prob): ...
def keyword_xp(self, *, xp, log_prob): ...
def without_quantity(self, xp, *, advantage, weight): ...


@pytest.mark.parametrize("surrogate", [positional, variadic, open_ended, without_xp, keyword_xp])
def test_a_surrogate_takes_xp_and_keywords_alone(surrogate):
    with pytest.raises(EstimatorError) as caught:
        type("Odd", (Base,), {"surrogate": surrogate})
    assert str(caught.value).startswith(
        "Odd.surrogate: expected (self, xp, *, names...), got (self, "
    )
    assert (
        "quantities are log_prob, entropy, kl, reverse_kl, log_probs, value, action_value, action_values"
        in str(caught.value)
    )


def test_a_surrogate_needs_a_quantity():
    words = r"Odd\.surrogate: expected at least one of the quantities log_prob, .*, got only signals advantage, weight;"
    with pytest.raises(EstimatorError, match=words):
        type("Odd", (Base,), {"surrogate": without_quantity})


def test_cotangents_take_what_the_surrogate_takes():
    def cotangents(self, *, log_prob, advantages): ...

    words = r"Odd\.cotangents: expected the keywords of surrogate, got a difference in advantage, advantages, entropy; use"
    with pytest.raises(EstimatorError, match=words):
        type("Odd", (Base,), {"surrogate": Tiny.surrogate, "cotangents": cotangents})


def test_a_subclass_without_a_surrogate_of_its_own_inherits_one():
    class Child(Tiny):
        """Changes nothing."""

    assert Child().keywords == Tiny().keywords


def test_what_an_estimator_leaves_out_has_a_default(make_batch):
    est, signals = Tiny(), {"advantage": np.ones(6)}
    assert est.reduction is Reduction.STEP
    assert est.metrics() == {}
    assert est.adapted({"kl": 1.0}) is est
    assert est.finalise(signals, None) is signals
    assert Base.uses(est, "anything")
    given = {"log_prob": np.zeros(2), "advantage": np.array([1.0, -2.0])}
    assert est.cotangents(**given)["log_prob"].tolist() == [-1.0, 2.0], "derived"
    policy, surrogate = mock.Mock(), object()
    assert est.differentiate(policy, surrogate) is policy.gradient.return_value
    policy.gradient.assert_called_once_with(surrogate)


DERIVER = ModuleType("somebodys_deriver")
vars(DERIVER)["derive"] = lambda _: SimpleNamespace(
    cotangents=lambda **named: {"log_prob": 7.0 * named["log_prob"]}
)


def deriving(monkeypatch, *providers):
    """Make these the registered derivers."""
    kinds = {kind: providers if kind == "derivers" else () for kind in KINDS}
    monkeypatch.setitem(sys.modules, DERIVER.__name__, DERIVER)
    monkeypatch.setattr(
        registry(), "plugins", (Plugin("somebodys", "somebodys", "1.0", DERIVER, kinds),)
    )
    monkeypatch.setattr(registry(), "_loaded", {})


def test_cotangents_are_derived_by_the_first_usable_deriver(monkeypatch):
    far = Provider("a", "somebodys_deriver:derive", "", "package_that_is_absent")
    deriving(monkeypatch, Provider("b", "somebodys_deriver:derive", ""), far)
    assert Tiny().cotangents(log_prob=1.0, advantage=1.0) == {"log_prob": 7.0}


def test_without_a_deriver_cotangents_must_be_written(monkeypatch):
    deriving(monkeypatch)
    with pytest.raises(
        DependencyError, match=r"tiny\.cotangents: expected a registered deriver, got none; write"
    ):
        Tiny().cotangents(log_prob=1.0, advantage=1.0)


# Signals of a batch


def test_signals_are_cast_to_the_policys_dtype_and_integers_are_kept(make_batch):
    found = signals_of(
        returning(advantage=np.full(6, 1 / 3), index=np.arange(6)), make_batch(), FLOAT32
    )
    assert (found["advantage"].dtype, found["index"].dtype, found.weights.dtype) == (
        FLOAT32,
        np.dtype(int),
        FLOAT32,
    )
    assert found["advantage"][0] == np.float32(1 / 3)
    assert found.padded is False
    assert signals_of(Tiny(), make_batch().pad(8)).padded is True


def test_a_keyword_that_is_neither_quantity_nor_signal_lists_both(make_batch):
    words = (
        r"tiny\.surrogate: expected keywords that are quantities \(log_prob, entropy, .*\) or signals \(adv, weight\), "
        "got advantage; return the missing signals or rename the keywords"
    )
    with pytest.raises(EstimatorError, match=words):
        signals_of(returning(adv=np.ones(6), weight=np.ones(6)), make_batch())
    with pytest.raises(EstimatorError, match=r"or signals \(none\), got advantage"):
        signals_of(returning(), make_batch())


class Penalised(Base):
    """Uses `kl`."""

    given: ClassVar[dict[str, np.ndarray]] = {}

    def signals(self, batch, evaluate):
        return self.given

    def surrogate(self, xp, *, kl):
        return kl


def penalised(**signals):
    return type("Given", (Penalised,), {"given": signals})()


def test_kl_needs_a_reference(make_batch):
    with pytest.raises(
        EstimatorError,
        match=r"tiny\.signals: expected `reference`, which a KL measures from, got none",
    ):
        signals_of(penalised(), make_batch())


@pytest.mark.parametrize("shape", [(6,), (6, 2), (6, 3, 1)])
def test_a_reference_has_the_heads_width(make_batch, shape):
    words = r"tiny\.signals\['reference'\]: expected shape \[B, 3\], the head's distribution parameters, got \[6"
    with pytest.raises(ShapeError, match=words):
        signals_of(penalised(reference=np.zeros(shape)), make_batch())


def test_masked_actions_of_a_reference_are_minus_infinity(make_batch):
    reference = np.log(np.full((6, 3), 1 / 3))
    reference[2, 1] = -math.inf
    np.testing.assert_array_equal(
        signals_of(penalised(reference=reference), make_batch())["reference"], reference
    )


@pytest.mark.parametrize(
    ("value", "shape"),
    [(np.ones(5), r"\[5\]"), (np.float64(1.0), r"\[\]"), (np.ones((1, 6)), r"\[1, 6\]")],
)
def test_a_signal_has_one_row_for_each_step(make_batch, value, shape):
    words = rf"tiny\.signals\['advantage'\]: expected 6 rows, one for each step, got shape {shape}; return"
    with pytest.raises(EstimatorError, match=words):
        signals_of(returning(advantage=value), make_batch())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_signal_that_is_not_finite_names_the_step(make_batch, bad):
    advantage = np.ones((6, 2))
    advantage[4, 1] = bad
    with pytest.raises(
        NonFiniteError,
        match=r"tiny\.signals\['advantage'\]: expected finite numbers, got .* at step 4;",
    ):
        signals_of(returning(advantage=advantage), make_batch())


def test_a_signal_too_large_for_float32_names_the_step(make_batch):
    advantage = np.array([1.0, 1e38, 1e39, 1.0, 1.0, 1.0])
    signals_of(returning(advantage=advantage), make_batch())
    with pytest.raises(NonFiniteError, match="got inf at step 2"):
        signals_of(returning(advantage=advantage), make_batch(), FLOAT32)


def test_overflow_inside_signals_is_reported_by_step_and_not_as_a_warning(make_batch):
    class Squared(Tiny):
        def signals(self, batch, evaluate):
            return {"advantage": batch.rewards**2}

    with pytest.raises(NonFiniteError, match="at step 1"):
        signals_of(Squared(), make_batch(rewards=[1, 1e200, 0, 0, 0, 0]))


# Reductions


REDUCTIONS = (Reduction.STEP, Reduction.EPISODE_STEP, Reduction.TRAJECTORY)


def test_reductions_weigh_steps(make_batch):
    batch = make_batch()  # episodes of 2 and 4 steps
    np.testing.assert_allclose(Reduction.TRAJECTORY.weights(batch), [1 / 2] * 6)
    np.testing.assert_allclose(Reduction.STEP.weights(batch), [1 / 6] * 6)
    np.testing.assert_allclose(Reduction.EPISODE_STEP.weights(batch), [1 / 4] * 2 + [1 / 8] * 4)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_padding_weighs_nothing_and_changes_nothing(make_batch, reduction):
    weights = reduction.weights(make_batch().pad(11))
    np.testing.assert_array_equal(weights[:6], reduction.weights(make_batch()))
    assert not weights[6:].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_batch_repeated_twice_has_the_same_loss(make_batch, reduction):
    batch, twice = make_batch(), make_batch().episodes([0, 1, 0, 1])
    assert reduction.weights(twice) @ twice.rewards == pytest.approx(
        reduction.weights(batch) @ batch.rewards, rel=1e-14
    )


def test_a_reduction_goes_by_its_value():
    assert Reduction.of("x", "episode_step") == Reduction.EPISODE_STEP
    assert Reduction.of("x", Reduction.STEP) is Reduction.STEP
    with pytest.raises(
        EstimatorError,
        match=r"x: expected one of 'constant', 'episode_step', 'group_step', .*, got 'mean'; choose",
    ):
        Reduction.of("x", "mean")


# Fields


@dataclass(frozen=True)
class Declared(Tiny):
    """What a third party writes: checked fields, and a reduction of its own."""

    scale: Positive = 1.0
    reduction: AnyReduction = Reduction.TRAJECTORY


def test_a_strangers_fields_are_checked_as_they_declare():
    assert Declared(reduction="episode_step") == Declared(reduction=Reduction.EPISODE_STEP)
    assert type(Declared(scale=np.float32(2.0)).scale) is float
    with pytest.raises(EstimatorError, match=r"Declared\.scale: expected a positive number, got 0"):
        Declared(scale=0)
    with pytest.raises(
        EstimatorError, match=r"Declared\.reduction: expected one of 'constant', .*, got 'mean'"
    ):
        Declared(reduction="mean")


def test_a_strangers_own_checks_are_its_own_business():
    @dataclass(frozen=True)
    class Own(Tiny):
        limit: Positive = 1.0

        def __post_init__(self):
            if self.limit == -1:
                raise EstimatorError("Own.limit: expected anything but -1, got -1; change it")

    assert Own(limit="free").limit == "free"
    with pytest.raises(EstimatorError, match=r"Own\.limit"):
        Own(limit=-1)


# Slicing


def reduced(reduction):
    return type("Reduced", (Tiny,), {"reduction": reduction})()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_mean_over_equal_parts_is_the_whole_batchs_loss(make_batch, reduction):
    batch, terms = make_batch(), np.arange(6.0) ** 2
    signals = signals_of(reduced(reduction), batch)
    whole = signals.weights @ terms
    for parts in ([[5, 0], [1, 4], [2, 3]], [[0, 3, 5], [1, 2, 4]], [range(6)]):
        losses = [signals.steps(part).weights @ terms[list(part)] for part in map(list, parts)]
        assert np.mean(losses) == pytest.approx(whole, rel=1e-14)


def test_a_minibatch_of_a_mean_over_steps_is_a_mean_over_its_own(make_batch):
    signals = signals_of(Tiny(), make_batch())
    np.testing.assert_allclose(signals.steps([4, 1, 2, 0]).weights, [1 / 4] * 4)
    np.testing.assert_allclose(
        signals.steps(np.array([0, 1, 0, 0, 0, 1], bool)).weights, [1 / 2] * 2
    )
    np.testing.assert_allclose(signals.steps(slice(0, 3)).steps([2]).weights, [1.0])


def test_padding_counts_in_no_minibatch(make_batch):
    signals = signals_of(Tiny(), make_batch().pad(9))
    np.testing.assert_allclose(signals.steps([8, 0, 6, 3]).weights, [0.0, 1 / 2, 0.0, 1 / 2])
    np.testing.assert_allclose(signals.steps([6, 7]).weights, [0.0, 0.0])
    assert signals.steps([0]).padded


def test_values_are_sliced_with_the_weights(make_batch):
    signals = signals_of(
        returning(advantage=np.arange(6.0), reference=np.zeros((6, 3))), make_batch()
    ).steps([3, 1])
    assert signals["advantage"].tolist() == [3.0, 1.0]
    assert signals["reference"].shape == (2, 3)


def test_weights_keep_the_policys_dtype_when_sliced(make_batch):
    assert signals_of(Tiny(), make_batch(), FLOAT32).steps([0, 1, 2]).weights.dtype == FLOAT32


# Binding


class Finalised(Tiny):
    """Keeps what `finalise` was given."""

    def finalise(self, signals, padding):  # pyright: ignore[reportIncompatibleMethodOverride]
        return signals | {"padding": padding}


def test_a_surrogate_sees_finalised_signals_and_which_steps_are_padding(make_batch):
    bound = Surrogate(SPEC, Finalised(), make_batch(), signals_of(Finalised(), make_batch()))
    assert bound.values["padding"] is None
    padded = make_batch().pad(8)
    signals = signals_of(Finalised(), padded)
    bound = Surrogate(SPEC, Finalised(), padded, signals)
    assert (bound.values["padding"] > 0).tolist() == [True] * 6 + [False] * 2
    assert bound.weights is signals.weights
    assert "padding" not in signals.values


def test_signals_of_another_estimator_are_refused(make_batch):
    with pytest.raises(EstimatorError, match=r"or signals \(advantage\), got .*target"):
        Surrogate(SPEC, _valued()(), make_batch(), signals_of(Tiny(), make_batch()))
    with pytest.raises(EstimatorError, match="expected `reference`, which a KL measures from"):
        Surrogate(SPEC, penalised(), make_batch(), signals_of(Tiny(), make_batch()))


@dataclass(frozen=True)
class Summed(ScoreEstimator, Tiny):
    """The gradient of minus the sum of log pi, from scores."""

    def combine(self, batch, evaluate, signals, weights):
        return -evaluate.scores().sum(axis=0)


def test_a_score_estimator_makes_the_gradient_from_whole_episodes_scores(make_batch):
    policy, batch, estimator = pg.policy(SPEC, dtype="float64"), make_batch(), Summed()
    assert estimator.sees_episodes
    found = pg.gradient(policy, estimator, batch)
    vector = np.concatenate([value.reshape(-1) for value in found.numpy().values()])
    np.testing.assert_array_equal(vector, -policy.episode_scores(batch).sum(axis=0))
    assert found.loss == pg.gradient(policy, Tiny(), batch).loss, "the surrogate's"


def test_signals_of_another_batch_are_refused(make_batch):
    with pytest.raises(
        EstimatorError, match=r"gradient: expected signals for 2 steps, got them for 6; slice"
    ):
        Surrogate(SPEC, Tiny(), make_batch().steps([0, 1]), signals_of(Tiny(), make_batch()))


def _valued():
    class Valued(Base):
        @property
        def claims(self):
            return Claims(
                unbiased=False, off_policy="limited", needs_critic=True, discrete_only=False
            )

        def surrogate(self, xp, *, value, target):
            return value - target

    return Valued


@pytest.mark.parametrize("value", [True, False, "on_policy", None])
def test_a_claim_on_other_policies_episodes_is_one_of_three(value):
    with pytest.raises(
        EstimatorError, match=r"Claims.off_policy: expected one of 'exact', 'limited', 'none', got"
    ):
        Claims(unbiased=True, off_policy=value, needs_critic=False, discrete_only=False)


def test_the_constants_of_a_normalisation_are_not_inherited_with_another():
    signals = {"advantage": np.array([1.0, 4.0, 2.0]), "return_": np.ones(3)}
    ppo = pg.estimator("ppo")
    ((first, mean, divisor),) = dict(ppo.standards(signals.__getitem__, None) or {}).values()
    normalised = ppo.finalise(signals, None)["advantage"]
    np.testing.assert_array_equal((signals["advantage"] - first - mean) / divisor, normalised)
    assert pg.estimator("ppo", normalise="batch").standards(signals.__getitem__, None) == {}

    class Clipped(PPO):
        name = "clipped advantages"

        def finalise(self, signals, padding):
            return {name: np.clip(value, -1, 1) for name, value in signals.items()}

    assert Clipped().standards(signals.__getitem__, None) is None
