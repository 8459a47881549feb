"""Every claim of every registered estimator holds; a wrong claim is refuted, or is an error where it contradicts the signature."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

import pgcore as pg
from pgcore import exact
from pgcore.cli.audit import subjects
from pgcore.errors import BatchError, EstimatorError, MDPError
from pgcore.exact import episodes, fixed_points, trials
from pgcore.exact.claims import reclaimed
from pgcore.exact.fixed_points import fixed_point_moves
from pgcore.exact.needs import audit_policy, policies
from pgcore.signals import next_values, normalise
from pgcore.testing.proof import Proof
from pgcore.testing.proofs import proofs, variants
from pgcore_estimators.importance_sampling import AveragedRatio, WeightedIS
from pgcore_estimators.q_learning import QLearning
from pgcore_estimators.reinforce import Reinforce
from pgcore_estimators.vtrace import VTrace

VARIANTS = variants("estimators")

# Small enough that all pairs of episodes take no time, and with everything in it: two lengths, an end, a horizon.
PROCESS = exact.audit_process(horizon=2)

# Every registered estimator by default at discount 1, and the kit's variants at their own.
SUBJECTS = subjects() | {f"{label}, own discount": estimator for label, estimator in VARIANTS.items()}


@pytest.mark.parametrize("label", SUBJECTS)
def test_every_claim_of_a_registered_estimator_is_confirmed(label):
    found = exact.audit(SUBJECTS[label], PROCESS)
    assert [verdict for verdict in found.verdicts if verdict.verdict != "confirmed"] == []
    assert {verdict.claim for verdict in found.verdicts} == {each.name for each in dataclasses.fields(pg.Claims)}


def test_every_registered_estimator_is_a_subject():
    from pgcore.registry import registry

    registered = {registration.provider.name for registration in registry().providers("estimators")}
    assert {estimator.name for estimator in SUBJECTS.values()} == registered


def verdict_on(estimator, claim, process=PROCESS):
    return next(verdict for verdict in exact.audit(estimator, process).verdicts if verdict.claim == claim)


@dataclasses.dataclass(frozen=True)
class Peeking(Reinforce):
    """Takes the critic's value in its signals, where no signature shows it."""

    name = "peeking"

    def signals(self, batch, evaluate):
        return {"advantage": super().signals(batch, evaluate)["advantage"] - evaluate("value")["value"]}


@dataclasses.dataclass(frozen=True)
class Weighted(Reinforce):
    """REINFORCE times the ratio of the whole episode's probabilities: unbiased off policy too."""

    name = "weighted"

    def signals(self, batch, evaluate):
        log_ratio = np.add.reduceat(evaluate("log_prob")["log_prob"] - batch.log_probs, batch.episode_starts)
        return {"advantage": super().signals(batch, evaluate)["advantage"] * np.exp(log_ratio)[batch.episode_of_step]}


PLAIN = pg.estimator("reinforce", gamma=1.0)
VALUE = pg.estimator("reinforce", gamma=1.0, baseline="value")


@pytest.mark.parametrize(
    ("estimator", "wrong", "told"),
    [
        (pg.estimator("reinforce", gamma=1.0, baseline="mean"), {"unbiased": True}, "relative bias 0.5"),
        (pg.estimator("reinforce", gamma=1.0, normalise="batch"), {"unbiased": True}, "relative bias"),
        (PLAIN, {"on_policy": False}, "with another policy's episodes"),
        (Weighted(gamma=1.0), {"on_policy": True}, "move the mean by"),
        (Peeking(gamma=1.0), {"needs_critic": False}, "without a critic: expected names among"),
        (PLAIN, {"needs_critic": True}, "runs without a critic"),
        (PLAIN, {"discrete_only": True}, "runs on real actions"),
        (VALUE, {"whole_episodes": True}, "taking cut episodes for ended ones moves the gradient"),
        (PLAIN, {"whole_episodes": False}, "what follows a step moves its signals"),
    ],
)
def test_a_wrong_claim_is_refuted(estimator, wrong, told):
    (claim,) = wrong
    verdict = verdict_on(reclaimed(estimator, **wrong), claim)
    assert verdict.verdict == "refuted"
    assert verdict.stated is wrong[claim]
    assert told in verdict.figure
    right = verdict_on(reclaimed(estimator, **{claim: not wrong[claim]}), claim)
    assert right.verdict == "confirmed"


# What would be said of estimators that need the current policy's episodes, had they claimed to do with any.
READING = ("cispo", "dr_grpo", "grpo", "gspo", "ppo", "reinforce_pp", "trpo")


@pytest.mark.parametrize("label", [label for label, each in subjects().items() if each.claims.on_policy])
def test_a_biased_estimator_for_any_episodes_must_make_up_for_who_acted(label):
    estimator = subjects()[label]
    wrong = reclaimed(estimator, on_policy=False, unbiased=False)
    verdict = verdict_on(wrong, "on_policy")
    if estimator.name == "expected":  # a sum over all actions, as soft_actor's is: only the states depend on who acted
        assert verdict.verdict == "confirmed"
    elif estimator.name in READING or getattr(estimator, "kl_coefficient", 0.0) != 0:
        assert verdict.verdict == "open"
        assert "who is said to have acted moves it by" in verdict.figure
    else:
        assert verdict.verdict == "refuted"
        assert "whoever is said to have acted" in verdict.figure


@dataclasses.dataclass(frozen=True)
class Sarsa(QLearning):
    """Bootstraps from the action that was taken next: its values are those of the policy that acted."""

    name = "sarsa"

    @property
    def claims(self):
        return dataclasses.replace(super().claims, on_policy=False)

    def signals(self, batch, evaluate):
        taken = evaluate("action_value", "final_action_values")
        last = np.where(batch.terminated, 0.0, taken["final_action_values"].max(axis=1))
        return {"target": batch.rewards + next_values(taken["action_value"], batch.episode_lengths, last)}


def test_a_critic_of_actions_that_follows_who_acted_is_refuted():
    verdict = verdict_on(Sarsa(gamma=1.0), "on_policy")
    assert verdict.verdict == "refuted"
    assert "what follows a step moves its targets by" in verdict.figure
    assert verdict_on(pg.estimator("q_learning", gamma=1.0), "on_policy").verdict == "confirmed"


@dataclasses.dataclass(frozen=True)
class TreeBackup(QLearning):
    """Expects of each later step what a soft policy of the values would, and follows the action that was taken as often as that takes it."""

    name = "tree_backup"

    def signals(self, batch, evaluate):
        now = evaluate("action_values", "final_action_values")
        rows = np.arange(batch.num_steps)
        taken = now["action_values"][rows, batch.actions]
        pi = soft(now["action_values"])
        rest, followed = (pi * now["action_values"]).sum(axis=1), pi[rows, batch.actions]
        last = (soft(now["final_action_values"]) * now["final_action_values"]).sum(axis=1)
        target = np.empty(batch.num_steps)
        for episode, end in enumerate(batch.episode_ends):
            to_come = 0.0 if batch.terminated[episode] else last[episode]
            for step in range(end, batch.episode_starts[episode] - 1, -1):
                target[step] = batch.rewards[step] + self.gamma * to_come
                to_come = rest[step] + followed[step] * (target[step] - taken[step])
        return {"target": target}


def soft(values):
    """Return [B, A] a policy that takes the best action four times as often as each other one."""
    found = np.where(values == values.max(axis=1, keepdims=True), 4.0, 1.0)
    return found / found.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("actions", [2, 3])
def test_a_critic_of_actions_that_settles_alike_whoever_acts_is_confirmed(actions):
    process = exact.audit_process(actions=actions, horizon=2)
    verdict = verdict_on(TreeBackup(gamma=1.0), "on_policy", process)
    assert verdict.verdict == "confirmed"
    assert "what follows a step moves its targets by" in verdict.figure
    assert "who acts moves what its values settle at by" in verdict.figure
    followed = verdict_on(Sarsa(gamma=1.0), "on_policy", process)
    assert followed.verdict == "refuted"
    assert "who acts moves what its values settle at by" in followed.figure


def test_values_that_are_too_many_or_do_not_settle_say_nothing(monkeypatch):
    policy = audit_policy(policies(PROCESS)["critic of actions"], 0)
    assert fixed_point_moves(TreeBackup(gamma=1.0), PROCESS, policy) < 1e-12
    monkeypatch.setattr(fixed_points, "MOST_VALUES", 5)
    assert math.isnan(fixed_point_moves(TreeBackup(gamma=1.0), PROCESS, policy))
    monkeypatch.undo()
    monkeypatch.setattr(fixed_points, "MOST_STEPS", 1)
    assert math.isnan(fixed_point_moves(TreeBackup(gamma=1.0), PROCESS, policy))
    monkeypatch.undo()
    monkeypatch.setattr(episodes, "MOST_EPISODES", 5)
    assert math.isnan(fixed_point_moves(TreeBackup(gamma=1.0), PROCESS, policy))


@dataclasses.dataclass(frozen=True)
class Overdone(AveragedRatio):
    """Squares the ratios."""

    name = "overdone"

    def signals(self, batch, evaluate):
        found = super().signals(batch, evaluate)
        return {**found, "old_log_prob": 2.0 * found["old_log_prob"] - evaluate("log_prob")["log_prob"]}


def test_a_correction_that_is_wrong_is_not_confirmed():
    assert verdict_on(pg.estimator("averaged_ratio", gamma=1.0), "on_policy").verdict == "confirmed"
    assert verdict_on(Overdone(gamma=1.0), "on_policy").verdict == "open"


@dataclasses.dataclass(frozen=True)
class FirstOnly(Reinforce):
    """Weighs whole episodes by their first step's ratio, limited or divided by the batch's mean or as it is."""

    form: str = "plain"
    name = "first_only"

    def signals(self, batch, evaluate):
        ratio = np.exp(evaluate("log_prob")["log_prob"] - batch.log_probs)[batch.episode_starts]
        weight = {"plain": ratio, "limited": np.minimum(ratio, 1.0), "mean": ratio / ratio.mean()}[self.form]
        return {"advantage": super().signals(batch, evaluate)["advantage"] * weight[batch.episode_of_step]}


@pytest.mark.parametrize("form", ["plain", "limited", "mean"])
@pytest.mark.parametrize("actions", [2, 3])
def test_a_correction_of_first_steps_alone_is_not_confirmed(form, actions):
    wrong = reclaimed(FirstOnly(gamma=1.0, form=form), on_policy=False, unbiased=False)
    process = exact.audit_process(actions=actions, horizon=2)
    assert verdict_on(wrong, "on_policy", process).verdict == "open"
    # Over single steps there is nothing else to correct, and it is seen all the same.
    assert verdict_on(wrong, "on_policy", exact.audit_process(actions=actions, horizon=1)).verdict == "open"


def test_too_many_second_steps_are_not_tried(monkeypatch):
    monkeypatch.setattr(trials, "MOST_SECOND", 7)  # of 8
    wrong = reclaimed(FirstOnly(gamma=1.0), on_policy=False, unbiased=False)
    verdict = verdict_on(wrong, "on_policy")
    assert verdict.verdict == "confirmed"
    assert "second steps" not in verdict.figure


@dataclasses.dataclass(frozen=True)
class OverdoneWeighted(WeightedIS):
    """Squares the ratios, whose mean over a population is not 1 then."""

    name = "overdone_weighted"

    def log_weights(self, batch, log_ratio_t):
        return super().log_weights(batch, 2.0 * log_ratio_t)


@dataclasses.dataclass(frozen=True)
class Shrunk(WeightedIS):
    """Corrects a population of any size, and each by another factor."""

    name = "shrunk"

    def log_weights(self, batch, log_ratio_t):
        return super().log_weights(batch, log_ratio_t) + np.log1p(-1.0 / (1 + batch.num_episodes))


@pytest.mark.parametrize("batch", [1, 2])
def test_a_ratio_of_means_is_right_on_a_whole_population(batch):
    def verdict(estimator):
        audit = exact.audit(estimator, PROCESS, batch=batch)
        return next(each for each in audit.verdicts if each.claim == "on_policy")

    found = verdict(pg.estimator("wis", gamma=1.0))
    assert found.verdict == "confirmed"
    assert "on all episodes of one step at once" in found.figure
    for wrong in (OverdoneWeighted(gamma=1.0), Shrunk(gamma=1.0)):
        assert verdict(wrong).verdict != "confirmed"
    # So are a batch's own mean as baseline and ratios that are not held back, and clips take that away.
    wide = pg.estimator("dr_grpo", clip_low=1.0, clip_high=1e6)
    assert verdict(reclaimed(wide, on_policy=False)).verdict == "confirmed"
    assert verdict(reclaimed(pg.estimator("dr_grpo"), on_policy=False)).verdict == "open"


@dataclasses.dataclass(frozen=True)
class Altered(VTrace):
    """Does something else to the log ratios, or to the advantages."""

    ratios: Callable[[np.ndarray], np.ndarray] = lambda log_ratio: log_ratio
    advantages: Callable[[np.ndarray], np.ndarray] = lambda advantage: advantage
    name = "altered"

    def signals(self, batch, evaluate):
        own = evaluate("log_prob")["log_prob"]
        altered = copy.copy(batch)
        altered.__dict__["log_probs"] = own - self.ratios(own - batch.log_probs)
        found = super().signals(altered, evaluate)
        return {**found, "advantage": self.advantages(found["advantage"])}


def test_limited_ratios_count_what_is_done_too_often_for_its_due():
    verdict = verdict_on(Altered(gamma=1.0), "on_policy")
    assert verdict.verdict == "confirmed"
    assert "rewards of actions taken too often count for their due" in verdict.figure
    assert verdict_on(Altered(gamma=1.0, rho_bar=3.0, entropy_coefficient=0.1), "on_policy").verdict == "confirmed"
    for wrong in (
        Altered(gamma=1.0, ratios=lambda log_ratio: 2.0 * log_ratio),
        Altered(gamma=1.0, ratios=lambda log_ratio: 0.5 * log_ratio),
        Altered(gamma=1.0, ratios=lambda log_ratio: -log_ratio),
        Altered(gamma=1.0, ratios=lambda log_ratio: log_ratio.clip(-0.2, 0.2)),
        Altered(
            gamma=1.0, rho_bar=math.inf, ratios=lambda log_ratio: np.where(log_ratio > 0, 2.0 * log_ratio, log_ratio)
        ),
        Altered(gamma=1.0, rho_bar=0.5),
        # Each step by itself is corrected, and what they are divided by is not.
        Altered(gamma=1.0, advantages=lambda advantage: advantage / (1.0 + np.abs(advantage).mean())),
        Altered(gamma=1.0, advantages=normalise),
    ):
        assert verdict_on(wrong, "on_policy").verdict == "open"


@dataclasses.dataclass(frozen=True)
class Uncorrected(VTrace):
    """Corrects rewards as V-trace does, and what it takes off them, or adds to them, not at all."""

    advantages: Callable[..., np.ndarray] = lambda rho, rewards, delta: rho * delta
    name = "uncorrected"

    def signals(self, batch, evaluate):
        now = evaluate("log_prob", "value", "final_value")
        rho = np.minimum(np.exp(now["log_prob"] - batch.log_probs), 1.0)
        delta = batch.rewards + next_values(now["value"], batch.episode_lengths, now["final_value"]) - now["value"]
        return {"advantage": self.advantages(rho, batch.rewards, delta), "return_": now["value"] + rho * delta}


@pytest.mark.parametrize("actions", [2, 3, 5])
def test_a_baseline_and_a_constant_are_limited_with_the_rewards_that_they_go_with(actions):
    process = exact.audit_process(actions=actions, horizon=1)
    assert verdict_on(Uncorrected(gamma=1.0), "on_policy", process).verdict == "confirmed"
    bonus = Uncorrected(gamma=1.0, entropy_coefficient=0.3)
    assert verdict_on(bonus, "on_policy", process).verdict == "confirmed"
    for wrong in (
        lambda rho, rewards, delta: rho * rewards + (delta - rewards),  # the critic's part is as it was taken
        lambda rho, rewards, delta: rho * delta + 10.0,
        lambda rho, rewards, delta: rho * delta - 0.1 * rho**2,
    ):
        assert verdict_on(Uncorrected(gamma=1.0, advantages=wrong), "on_policy", process).verdict == "open"


@dataclasses.dataclass(frozen=True)
class Raised(Reinforce):
    """Adds a constant to every return, so that small rewards are all good."""

    name = "raised"
    by: float = 0.0

    def signals(self, batch, evaluate):
        return {"advantage": super().signals(batch, evaluate)["advantage"] + self.by}


@dataclasses.dataclass(frozen=True)
class Regressed(Reinforce):
    """Weighs each step by the exponential of its return, without a limit."""

    name = "regressed"

    def signals(self, batch, evaluate):
        with np.errstate(over="ignore"):
            return {"advantage": np.exp(super().signals(batch, evaluate)["advantage"])}


@pytest.mark.parametrize("by", [5.0, 100.0])
def test_a_constant_that_outweighs_small_rewards_makes_no_likelihood(by):
    raised = reclaimed(Raised(gamma=1.0, by=by), on_policy=False, unbiased=False)
    assert verdict_on(raised, "on_policy").verdict == "refuted"
    regressed = reclaimed(Regressed(gamma=1.0), on_policy=False, unbiased=False)
    verdict = verdict_on(regressed, "on_policy")
    assert verdict.verdict == "confirmed"
    assert "a likelihood" in verdict.figure


def test_a_likelihood_weighs_every_step_for_its_action():
    verdict = verdict_on(pg.estimator("awr", gamma=1.0), "on_policy")
    assert verdict.verdict == "confirmed"
    assert "a likelihood" in verdict.figure
    # Rewards that are all positive do not make one of an estimator that would take bad actions back.
    paid = PROCESS.replaced(reward=np.abs(PROCESS.reward) + 1.0)
    plain = reclaimed(pg.estimator("reinforce", gamma=1.0, reduction="step"), on_policy=False)
    assert verdict_on(plain, "on_policy", paid).verdict == "refuted"


@pytest.mark.parametrize("name", ["reinforce", "pdis", "averaged_ratio", "actor_critic"])
def test_where_every_gradient_is_0_who_acts_stays_open(name):
    idle = exact.from_gymnasium("FrozenLake-v1", horizon=3)  # the goal is six steps away
    verdict = verdict_on(pg.estimator(name, gamma=1.0), "on_policy", idle)
    # A critic's values are not 0, and a step's share of the gradient is seen with rewards that the process does not have.
    told = name in ("actor_critic", "averaged_ratio")
    assert verdict.verdict == ("confirmed" if told else "open")
    assert ("is 0" in verdict.figure) is not told


class AllActions(pg.Estimator):
    """Asks for every action's log-probability."""

    name = "all_actions"

    @property
    def claims(self):
        return pg.Claims(unbiased=False, on_policy=True, needs_critic=False, discrete_only=True)

    def signals(self, batch, evaluate):
        return {}

    def surrogate(self, xp, *, log_probs):
        return xp.sum(log_probs, 1)

    def cotangents(self, *, log_probs):
        return {"log_probs": np.ones_like(log_probs)}


def test_claims_that_contradict_the_signature_are_errors():
    with pytest.raises(
        EstimatorError, match=r"reinforce.claims: expected needs_critic=True for a surrogate that uses value, got False"
    ):
        exact.audit(reclaimed(VALUE, needs_critic=False), PROCESS)
    with pytest.raises(
        EstimatorError, match=r"expected discrete_only=True for a surrogate that uses log_probs, got False"
    ):
        exact.audit(reclaimed(AllActions(), discrete_only=False), PROCESS)


def test_a_discrete_surrogate_is_confirmed_to_be_one():
    verdict = verdict_on(AllActions(), "discrete_only")
    assert (verdict.verdict, verdict.stated) == ("confirmed", True)
    assert "on real actions: expected" in verdict.figure


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
        (reclaimed(Weighted(gamma=1.0), on_policy=True), exact.audit_process(horizon=1), 2),
        # A batch of two steps has advantages of 1 and -1 over the root of 2, but for what keeps 0 from being divided by.
        (pg.estimator("trpo", gamma=1.0), exact.audit_process(6, 2, 2, 4), 1),
    ],
)
def test_a_need_of_own_episodes_that_does_not_show_stays_open(estimator, process, batch):
    audit = exact.audit(estimator, process, batch=batch, seed=4)
    verdict = next(each for each in audit.verdicts if each.claim == "on_policy")
    assert verdict.verdict == "open"
    assert "another policy's episodes move the mean by" in verdict.figure


def test_a_discounted_estimator_is_held_to_its_own_objective():
    for fields, discounts in (({}, False), ({"discount_state": True}, True), ({"reward_to_go": False}, True)):
        found = exact.audit(pg.estimator("reinforce", gamma=0.7, **fields), PROCESS)
        assert found.discount_state is discounts
        assert found.relative < 1e-13


@dataclasses.dataclass(frozen=True)
class Taught(Reinforce):
    """Wants an extra of its own."""

    name = "taught"

    def signals(self, batch, evaluate):
        if "teacher" not in batch.extras:
            raise BatchError("taught: expected the extra 'teacher', got none; add it")
        return {"advantage": super().signals(batch, evaluate)["advantage"] + batch.extras["teacher"]}


def test_an_extra_comes_from_the_table_of_needs_or_is_told(monkeypatch):
    with pytest.raises(BatchError, match="expected the extra 'teacher'") as caught:
        exact.audit(Taught(gamma=1.0), PROCESS)
    assert caught.value.__notes__ == [
        "taught can be audited once a Proof gives policies or extras that suit it; see the hook pgcore_proofs"
    ]
    extras = {"teacher": lambda mdp, _: np.repeat(np.arange(mdp.states, dtype=float)[:, None], mdp.actions, axis=1)}
    monkeypatch.setattr(proofs(), "all", [*proofs().all, Proof(Taught, extras=extras)])
    assert exact.audit(Taught(gamma=1.0), PROCESS).relative < 1e-13  # a baseline of the state alone


def test_a_mean_over_steps_is_compared_at_its_own_length():
    found = exact.audit(pg.estimator("reinforce", gamma=1.0, reduction="step"), PROCESS)
    assert found.factor == found.length
    assert 0 < found.rescaled < found.relative
    assert exact.audit(PLAIN, PROCESS).factor == 1.0


@pytest.mark.parametrize("actions", [2, 3])
@pytest.mark.parametrize("paid", [1.0, -1.0, -1e3])
def test_gradients_that_cancel_are_no_bias_of_what_rounding_leaves(actions, paid):
    # Every step pays the same, and all episodes are as long: nothing that is done matters, and every episode has a gradient.
    same = exact.random(3, actions, 3 if actions == 2 else 2, 0).replaced(reward=np.full((3, actions), paid))
    for estimator in (PLAIN, pg.estimator("pdis", gamma=1.0), pg.estimator("trajectory_is", gamma=1.0)):
        found = exact.audit(estimator, same)
        assert (found.exact, found.bias, found.relative) == (0.0, 0.0, 0.0)
        assert found.variance > 0
        assert verdict_on(estimator, "unbiased", same).verdict == "confirmed"
        assert not found.refuted
    # A mean over steps of returns to go is 0 too, and the entropy's gradient is not.
    assert verdict_on(pg.estimator("reinforce", gamma=1.0, reduction="step"), "unbiased", same).verdict == "open"
    bonus = reclaimed(pg.estimator("reinforce", gamma=1.0, entropy_coefficient=0.1), unbiased=True)
    assert verdict_on(bonus, "unbiased", same).verdict == "refuted"


def test_where_all_gradients_are_0_there_is_no_telling_a_bias():
    idle = PROCESS.replaced(reward=np.zeros((4, 2)))
    for stated in (True, False):
        verdict = verdict_on(reclaimed(PLAIN, unbiased=stated), "unbiased", idle)
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
        verdict = verdict_on(reclaimed(estimator, whole_episodes=stated), "whole_episodes", single)
        assert verdict.verdict == "open"
        assert "no episode can be cut" in verdict.figure


def test_where_every_gradient_is_0_it_is_open_whether_episodes_must_be_whole():
    idle = PROCESS.replaced(reward=np.zeros((4, 2)))
    assert verdict_on(PLAIN, "whole_episodes", idle).verdict == "open"
    assert verdict_on(VALUE, "whole_episodes", idle).verdict == "confirmed"  # its values are not 0


def test_what_cannot_be_audited_is_told():
    for batch in (0, 2.5):
        with pytest.raises(MDPError, match=f"audit batch: expected an integer of at least 1, got {batch}"):
            exact.audit(PLAIN, PROCESS, batch=batch)  # pyright: ignore[reportArgumentType]
    with pytest.raises(MDPError, match="audit: expected a finite horizon"):
        exact.audit(PLAIN, PROCESS.replaced(horizon=None))
    with pytest.raises(BatchError, match="at least 2 episodes"):
        exact.audit(pg.estimator("reinforce", baseline="leave_one_out"), PROCESS, batch=1)
