"""Every claim of every registered estimator holds; a wrong claim is refuted, or is an error where it contradicts the signature."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar

import numpy as np
import pytest

import pgcore as pg
import pgcore_exact as exact
from pgcore.errors import BatchError, EstimatorError, MDPError
from pgcore_check.proof import Proof
from pgcore_check.proofs import proofs, variants
from pgcore_estimators.parts.importance import SelfNormalised
from pgcore_estimators.preset_classes import WeightedIS
from pgcore_estimators.reinforce import Reinforce
from pgcore_exact.claims import with_claims
from pgcore_exact.command import subjects
from pgcore_exact.expectation.needs import extras
from pgcore_exact.off_policy import behaviours

VARIANTS = variants("estimators")

# Small enough that all pairs of episodes take no time, and with everything in it: two lengths, an end, a horizon.
PROCESS = exact.audit_process(horizon=2)

# Every registered estimator by default at discount 1, and the kit's variants at their own.
SUBJECTS = subjects() | {
    f"{label}, own discount": estimator for label, estimator in VARIANTS.items()
}


@pytest.mark.parametrize("label", SUBJECTS)
def test_every_claim_of_a_registered_estimator_is_confirmed(label):
    audit = exact.audit(SUBJECTS[label], PROCESS)
    expected = {
        True: "confirmed",
        False: "confirmed",
        "exact": "confirmed",
        "none": "confirmed",
        "limited": "reported",
    }
    assert [
        verdict for verdict in audit.verdicts if verdict.verdict != expected[verdict.stated]
    ] == []
    assert {verdict.claim for verdict in audit.verdicts} == {
        field.name for field in dataclasses.fields(pg.Claims)
    }


def test_every_registered_estimator_is_a_subject():
    from pgcore.registry.registry import registry

    registered = {registration.provider.name for registration in registry().providers("estimators")}
    assert {estimator.name for estimator in SUBJECTS.values()} == registered


def verdict_on(estimator, claim, process=PROCESS, batch=2):
    audit = exact.audit(estimator, process, batch=batch)
    return next(verdict for verdict in audit.verdicts if verdict.claim == claim)


@dataclasses.dataclass(frozen=True)
class Peeking(Reinforce):
    """Takes the critic's value in its signals, where no signature shows it."""

    name = "peeking"

    def signals(self, batch, evaluate):
        return {
            "advantage": super().signals(batch, evaluate)["advantage"] - evaluate("value")["value"]
        }


@dataclasses.dataclass(frozen=True)
class Weighted(Reinforce):
    """REINFORCE times the ratio of the whole episode's probabilities: unbiased off policy too."""

    name = "weighted"

    def signals(self, batch, evaluate):
        log_ratio = np.add.reduceat(
            evaluate("log_prob")["log_prob"] - batch.log_probs, batch.episode_starts
        )
        return {
            "advantage": super().signals(batch, evaluate)["advantage"]
            * np.exp(log_ratio)[batch.episode_of_step]
        }


PLAIN = pg.estimator("reinforce", gamma=1.0)
VALUE = pg.estimator("reinforce", gamma=1.0, baseline="value")


@pytest.mark.parametrize(
    ("estimator", "wrong", "told"),
    [
        (
            pg.estimator("reinforce", gamma=1.0, baseline="mean"),
            {"unbiased": True},
            "relative bias 0.5",
        ),
        (
            pg.estimator("reinforce", gamma=1.0, normalise="batch"),
            {"unbiased": True},
            "relative bias",
        ),
        (PLAIN, {"off_policy": "exact"}, "with another policy's episodes"),
        (Weighted(gamma=1.0), {"off_policy": "none"}, "move the mean by"),
        (Peeking(gamma=1.0), {"needs_critic": False}, "without a critic: expected names among"),
        (PLAIN, {"needs_critic": True}, "runs without a critic"),
        (PLAIN, {"discrete_only": True}, "runs on continuous actions"),
        (
            VALUE,
            {"whole_episodes": True},
            "taking truncated episodes for ended ones moves the gradient",
        ),
        (PLAIN, {"whole_episodes": False}, "later steps move a step's signals by"),
    ],
)
def test_a_wrong_claim_is_refuted(estimator, wrong, told):
    (claim,) = wrong
    verdict = verdict_on(with_claims(estimator, **wrong), claim)
    assert verdict.verdict == "refuted"
    assert verdict.stated == wrong[claim]
    assert told in verdict.figure
    opposite = {True: False, False: True, "exact": "none", "none": "exact"}[wrong[claim]]
    assert verdict_on(with_claims(estimator, **{claim: opposite}), claim).verdict == "confirmed"


@dataclasses.dataclass(frozen=True)
class FirstOnly(Reinforce):
    """Weighs whole episodes by their first step's ratio, limited or divided by the batch's mean or as it is."""

    form: str = "plain"
    name = "first_only"

    def signals(self, batch, evaluate):
        ratio = np.exp(evaluate("log_prob")["log_prob"] - batch.log_probs)[batch.episode_starts]
        weight = {"plain": ratio, "limited": np.minimum(ratio, 1.0), "mean": ratio / ratio.mean()}[
            self.form
        ]
        return {
            "advantage": super().signals(batch, evaluate)["advantage"]
            * weight[batch.episode_of_step]
        }


@dataclasses.dataclass(frozen=True)
class Overdone(SelfNormalised):
    """Squares the ratios, whose mean over a population is not 1 then."""

    def log_weights(self, batch, log_ratio_0t):
        return super().log_weights(batch, 2.0 * log_ratio_0t)


@dataclasses.dataclass(frozen=True)
class Shrunk(SelfNormalised):
    """Corrects a population of any size, and each by another factor."""

    def log_weights(self, batch, log_ratio_0t):
        return super().log_weights(batch, log_ratio_0t) + np.log1p(-1.0 / (1 + batch.num_episodes))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_ratio_of_means_is_right_on_a_whole_population(batch):
    right = verdict_on(WeightedIS(gamma=1.0), "off_policy", batch=batch)
    assert right.verdict == "confirmed"
    assert "on a whole population of them" in right.figure
    for wrong in (Overdone(gamma=1.0), Shrunk(gamma=1.0)):
        composed = pg.estimator(
            "policy_gradient", advantage=wrong, objective="score", reduction="trajectory"
        )
        assert composed.claims.off_policy == "exact"
        assert verdict_on(composed, "off_policy", batch=batch).verdict == "refuted"


@pytest.mark.parametrize(
    ("form", "over_single_steps"), [("plain", True), ("limited", False), ("mean", True)]
)
def test_a_correction_of_first_steps_alone_is_exact_over_single_steps_only(form, over_single_steps):
    claiming = with_claims(FirstOnly(gamma=1.0, form=form), off_policy="exact", unbiased=False)
    single = verdict_on(claiming, "off_policy", exact.audit_process(actions=3, horizon=1))
    assert single.verdict == ("confirmed" if over_single_steps else "refuted")
    assert (
        verdict_on(claiming, "off_policy", exact.audit_process(actions=3, horizon=2)).verdict
        == "refuted"
    )


def test_a_clip_takes_the_limit_away():
    # A batch's own mean as baseline and ratios of single steps are right on a population of single steps.
    single = exact.audit_process(horizon=1)
    wide, clipped = pg.estimator("dr_grpo", clip_low=1.0, clip_high=1e6), pg.estimator("dr_grpo")
    assert (
        verdict_on(with_claims(wide, off_policy="exact"), "off_policy", single).verdict
        == "confirmed"
    )
    assert (
        verdict_on(with_claims(clipped, off_policy="exact"), "off_policy", single).verdict
        == "refuted"
    )


@pytest.mark.parametrize(
    "name",
    [
        "actor_critic",
        "averaged_ratio",
        "awr",
        "dr_grpo",
        "ppo",
        "q_learning",
        "soft_actor",
        "vtrace",
    ],
)
def test_a_biased_estimator_is_not_exact_with_other_episodes(name):
    claiming = with_claims(SUBJECTS[name], off_policy="exact")
    assert verdict_on(claiming, "off_policy").verdict == "refuted"


def test_a_population_is_as_long_as_fits(monkeypatch):
    process = exact.audit_process(horizon=3)
    assert behaviours.population_process(process)[0].horizon == 3
    monkeypatch.setattr(behaviours, "MOST_MEMBERS", behaviours.members_at_most(process, 2))
    shorter, behaviour = behaviours.population_process(process)
    assert shorter.horizon == 2
    episodes = exact.all_episodes(shorter, behaviour)
    counts = behaviours.frequencies(episodes, shorter)
    np.testing.assert_allclose(counts / counts.sum(), episodes.probabilities, rtol=1e-14)


def test_limited_corrections_are_reported_with_both_figures_and_judged_by_nothing():
    audit = exact.audit(with_claims(PLAIN, off_policy="limited"), PROCESS)
    verdict = next(verdict for verdict in audit.verdicts if verdict.claim == "off_policy")
    assert (verdict.stated, verdict.verdict) == ("limited", "reported")
    figures = re.fullmatch(
        r"relative bias (\S+) on its own episodes, (\S+) on another policy's", verdict.figure
    )
    assert figures is not None
    assert float(figures[1]) < 1e-13
    assert float(figures[2]) > 0.1
    assert not audit.refuted
    critic = verdict_on(pg.estimator("q_learning", gamma=1.0), "off_policy")
    assert critic.verdict == "reported"
    assert "another policy's episodes move the critic's by" in critic.figure


@pytest.mark.parametrize(
    ("name", "verdict"),
    [("reinforce", "open"), ("pdis", "open"), ("wis", "open"), ("averaged_ratio", "reported")],
)
def test_where_every_gradient_is_0_who_acts_stays_open(name, verdict):
    idle = exact.from_gymnasium("FrozenLake-v1", horizon=3)  # the goal is six steps away
    told = verdict_on(pg.estimator(name, gamma=1.0), "off_policy", idle)
    assert told.verdict == verdict
    assert "gradient is 0" in told.figure


class AllActions(pg.Estimator):
    """Asks for every action's log-probability."""

    name = "all_actions"

    @property
    def claims(self):
        return pg.Claims(unbiased=False, off_policy="none", needs_critic=False, discrete_only=True)

    def signals(self, batch, evaluate):
        return {}

    def surrogate(self, xp, *, log_probs):
        return xp.sum(log_probs, 1)

    def cotangents(self, *, log_probs):
        return {"log_probs": np.ones_like(log_probs)}


def test_claims_that_contradict_the_signature_are_errors():
    with pytest.raises(
        EstimatorError,
        match=r"reinforce.claims: expected needs_critic=True for a surrogate that uses value, got False",
    ):
        exact.audit(with_claims(VALUE, needs_critic=False), PROCESS)
    with pytest.raises(
        EstimatorError,
        match=r"expected discrete_only=True for a surrogate that uses log_probs, got False",
    ):
        exact.audit(with_claims(AllActions(), discrete_only=False), PROCESS)


def test_a_discrete_surrogate_is_confirmed_to_be_one():
    verdict = verdict_on(AllActions(), "discrete_only")
    assert (verdict.verdict, verdict.stated) == ("confirmed", True)
    assert "on continuous actions: expected" in verdict.figure


def test_a_claimed_bias_that_is_not_there_stays_open():
    # A mean over the steps of episodes of one step each is no other than a mean over episodes.
    estimator = pg.estimator("reinforce", gamma=1.0, reduction="step")
    assert verdict_on(estimator, "unbiased", exact.audit_process(horizon=1)).verdict == "open"
    assert verdict_on(estimator, "unbiased").verdict == "confirmed"


@pytest.mark.parametrize(
    ("estimator", "process", "batch"),
    [
        # Over single steps the states are the same whoever acts, and a ratio is all that the actions need.
        (pg.estimator("expected", gamma=1.0), exact.audit_process(5, 4, 1, 6), 2),
        (with_claims(Weighted(gamma=1.0), off_policy="none"), exact.audit_process(horizon=1), 2),
        # A batch of two steps has advantages of 1 and -1 over the root of 2, but for what keeps 0 from being divided by.
        (pg.estimator("trpo", gamma=1.0), exact.audit_process(6, 2, 2, 4), 1),
    ],
)
def test_a_need_of_own_episodes_that_does_not_show_stays_open(estimator, process, batch):
    audit = exact.audit(estimator, process, batch=batch, seed=4)
    verdict = next(each for each in audit.verdicts if each.claim == "off_policy")
    assert verdict.verdict == "open"
    assert "another policy's episodes move the mean by" in verdict.figure


def test_a_discounted_estimator_is_held_to_its_own_objective():
    for fields, discounts in (
        ({}, False),
        ({"discount_state": True}, True),
        ({"reward_to_go": False}, True),
    ):
        found = exact.audit(pg.estimator("reinforce", gamma=0.7, **fields), PROCESS)
        assert found.discount_state is discounts
        assert found.relative < 1e-13


def of_action(batch, shape, rng):
    """Return numbers that change with the action, and so bias a baseline."""
    return 1.0 * batch.actions


def of_episode(batch, shape, rng):
    """Return one number for each episode, which is a baseline."""
    return rng.standard_normal(batch.num_episodes)[batch.episode_of_step]


@dataclasses.dataclass(frozen=True)
class Taught(Reinforce):
    """Adds an extra of its own to the advantage."""

    name = "taught"
    extras: ClassVar = {"teacher": pg.Extra("[B] float", "a teacher's values", of_action)}

    def signals(self, batch, evaluate):
        return {
            "advantage": super().signals(batch, evaluate)["advantage"] + batch.extras["teacher"]
        }


@dataclasses.dataclass(frozen=True)
class TaughtByEpisode(Taught):
    """An extra that is one number for each episode."""

    name = "taught_by_episode"
    extras: ClassVar = {"teacher": pg.Extra("[B] float", "a teacher's values", of_episode)}


@dataclasses.dataclass(frozen=True)
class Undeclared(Taught):
    """Reads an extra that it does not declare."""

    name = "undeclared"
    extras: ClassVar = {"teacher": pg.Extra("[B] float", "a teacher's values", optional=True)}


def test_an_extra_comes_from_its_example_or_from_a_proof(monkeypatch):
    assert exact.audit(Taught(gamma=1.0), PROCESS).relative > 1e-3
    # In all of a process an episode's number is the same.
    assert exact.audit(TaughtByEpisode(gamma=1.0), PROCESS).relative < 1e-13
    # Of the state alone, the extra is a baseline; a proof comes before the example.
    of_states = {
        "teacher": lambda mdp, _: np.repeat(
            np.arange(mdp.states, dtype=float)[:, None], mdp.actions, axis=1
        )
    }
    monkeypatch.setattr(proofs(), "all", [*proofs().all, Proof(Taught, extras=of_states)])
    assert exact.audit(Taught(gamma=1.0), PROCESS).relative < 1e-13


def test_extras_of_other_proofs_break_and_replace_nothing(monkeypatch):
    behaviour = np.full((PROCESS.states, PROCESS.actions), 1.0 / PROCESS.actions)
    built_in = extras(PROCESS, behaviour, PLAIN)

    def broken(mdp, probabilities):
        raise RuntimeError("planted")

    name = next(iter(built_in))
    of_another = {"broken": broken, name: lambda mdp, _: np.full_like(built_in[name], 7.0)}
    other = Proof(TaughtByEpisode, extras=of_another)
    its_own = Proof(Taught, extras={name: lambda mdp, _: np.full_like(built_in[name], 5.0)})
    monkeypatch.setattr(proofs(), "all", [*proofs().all, its_own, other])
    arrays = extras(PROCESS, behaviour, PLAIN)
    assert arrays.keys() == built_in.keys()
    np.testing.assert_array_equal(arrays[name], built_in[name])
    assert (extras(PROCESS, behaviour, Taught())[name] == 5.0).all()
    with pytest.raises(RuntimeError, match="planted"):
        extras(PROCESS, behaviour, TaughtByEpisode())


@pytest.mark.parametrize("stated", [False, True])
def test_an_example_that_fails_on_continuous_actions_judges_nothing(stated):
    def of_integers(batch, shape, rng):
        return np.zeros(2)[batch.actions]

    extra = pg.Extra("[B] float", "a teacher's values", of_integers)
    cls = type("OfIntegers", (Taught,), {"extras": {"teacher": extra}})
    verdict = verdict_on(with_claims(cls(gamma=1.0), discrete_only=stated), "discrete_only")
    assert (verdict.verdict, verdict.stated) == ("open", stated)
    assert "no example for continuous actions: expected [B] float" in verdict.figure


def test_an_extra_without_an_example_is_named_with_the_remedy():
    with pytest.raises(
        BatchError, match="expected extras that it declares, got 'teacher'"
    ) as caught:
        exact.audit(Undeclared(gamma=1.0), PROCESS)
    (note,) = caught.value.__notes__
    assert "undeclared can be audited once it declares its extras with examples, or a Proof" in note


def test_a_mean_over_steps_is_compared_at_its_own_length():
    found = exact.audit(pg.estimator("reinforce", gamma=1.0, reduction="step"), PROCESS)
    assert found.factor == found.length
    assert 0 < found.rescaled < found.relative
    assert exact.audit(PLAIN, PROCESS).factor == 1.0


@pytest.mark.parametrize("actions", [2, 3])
@pytest.mark.parametrize("paid", [1.0, -1.0, -1e3])
def test_gradients_that_cancel_are_no_bias_of_what_rounding_leaves(actions, paid):
    # Every step pays the same, and all episodes are as long: nothing that is done matters, and every episode has a gradient.
    same = exact.random(3, actions, 3 if actions == 2 else 2, 0).replaced(
        reward=np.full((3, actions), paid)
    )
    for estimator in (
        PLAIN,
        pg.estimator("pdis", gamma=1.0),
        pg.estimator("trajectory_is", gamma=1.0),
    ):
        found = exact.audit(estimator, same)
        assert (found.exact, found.bias, found.relative) == (0.0, 0.0, 0.0)
        assert found.variance > 0
        assert verdict_on(estimator, "unbiased", same).verdict == "confirmed"
        assert not found.refuted
    # A mean over steps of returns to go is 0 too, and the entropy's gradient is not.
    assert (
        verdict_on(pg.estimator("reinforce", gamma=1.0, reduction="step"), "unbiased", same).verdict
        == "open"
    )
    bonus = with_claims(
        pg.estimator("reinforce", gamma=1.0, entropy_coefficient=0.1), unbiased=True
    )
    assert verdict_on(bonus, "unbiased", same).verdict == "refuted"


def test_where_all_gradients_are_0_there_is_no_telling_a_bias():
    idle = PROCESS.replaced(reward=np.zeros((4, 2)))
    for stated in (True, False):
        verdict = verdict_on(with_claims(PLAIN, unbiased=stated), "unbiased", idle)
        assert verdict.verdict == "open"
        assert verdict.figure == "all gradients are 0, and so is the exact one"


def test_where_there_is_nothing_to_learn_a_bias_has_no_size():
    idle = PROCESS.replaced(reward=np.zeros((4, 2)))
    found = exact.audit(PLAIN, idle)
    assert (found.exact, found.bias, found.relative, found.variance) == (0.0, 0.0, 0.0, 0.0)
    assert np.isnan(found.cosine)
    assert np.isnan(found.scale)
    bonus = exact.audit(pg.estimator("reinforce", gamma=1.0, entropy_coefficient=0.1), idle)
    assert bonus.bias > 0.01
    assert bonus.relative == np.inf


@pytest.mark.parametrize("stated", [True, False])
def test_where_no_episode_can_be_cut_it_is_open_whether_they_must_be_whole(stated):
    single = exact.audit_process(horizon=1)
    for estimator in (PLAIN, VALUE):
        verdict = verdict_on(
            with_claims(estimator, whole_episodes=stated), "whole_episodes", single
        )
        assert verdict.verdict == "open"
        assert "no episode can be truncated" in verdict.figure


def test_where_every_gradient_is_0_it_is_open_whether_episodes_must_be_whole():
    idle = PROCESS.replaced(reward=np.zeros((4, 2)))
    assert verdict_on(PLAIN, "whole_episodes", idle).verdict == "open"
    assert verdict_on(VALUE, "whole_episodes", idle).verdict == "confirmed"  # its values are not 0


def test_what_cannot_be_audited_is_told():
    for batch in (0, 2.5):
        with pytest.raises(
            MDPError, match=f"audit batch: expected an integer of at least 1, got {batch}"
        ):
            exact.audit(PLAIN, PROCESS, batch=batch)  # pyright: ignore[reportArgumentType]
    with pytest.raises(MDPError, match="audit: expected a finite horizon"):
        exact.audit(PLAIN, PROCESS.replaced(horizon=None))
    with pytest.raises(BatchError, match="at least 2 episodes"):
        exact.audit(pg.estimator("reinforce", baseline="leave_one_out"), PROCESS, batch=1)
