"""Expectations and covariances of running estimators, over every batch that can happen."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

import pgcore as pg
import pgcore_exact as exact
from pgcore.errors import BatchError, EstimatorError, MDPError, NonFiniteError
from pgcore_check.cases.cases import fits
from pgcore_check.proofs import variants
from pgcore_estimators.preset_classes import PPO
from pgcore_estimators.reinforce import Reinforce
from pgcore_exact.expectation.estimates import Estimates, sample
from pgcore_exact.expectation.needs import audit_policy, policies
from pgcore_exact.process.episodes import all_tuples
from pgcore_exact.process.tabulated import tabulated

VARIANTS = variants("estimators")

PROCESS = exact.random(3, 2, 4, 0)
SHORT = exact.random(2, 2, 2, 1)
THIRDS = exact.softmax_table([[1 / 3, 2 / 3], [3 / 5, 2 / 5]])
EIGHTHS = exact.softmax_table([[3 / 8, 5 / 8], [1 / 2, 1 / 2]])
ENDING = exact.random(4, 2, 3, 0, terminals=1)


def policy_on(mdp, critic=None, seed=0):
    """Return a policy with a table of random logits and the given critic; without one, with none."""
    policy = audit_policy(policies(mdp)["no critic" if critic is None else "critic"], seed)
    if critic is not None:
        policy.load({**policy.parameters(), "critic.table": np.reshape(critic, (-1, 1))})
    return policy


def relative_bias(mdp, policy, estimator, **how):
    """Return |E g - g*| / |g*| over the policy's own parameters."""
    own, target = tabulated(policy, mdp).actor_mask, exact.gradient(mdp, policy)
    return np.linalg.norm(
        (exact.moments(mdp, policy, estimator, **how).mean - target)[own]
    ) / np.linalg.norm(target)


def estimates_of(mdp, policy, estimator):
    table = tabulated(policy, mdp)
    return Estimates(
        mdp, table, estimator, exact.all_episodes(mdp, table.probabilities), table.probabilities
    )


@pytest.mark.parametrize("label", VARIANTS)
def test_the_shortcut_by_rows_is_what_gradient_gives(label):
    spec = next(spec for spec in [*policies(ENDING).values()][1:] if fits(VARIANTS[label], spec))
    policy = audit_policy(spec, 2)
    found = estimates_of(ENDING, policy, VARIANTS[label])
    chosen = np.random.default_rng(1).integers(0, len(found.episodes), (40, 3))
    assert found.shortcut(3)
    direct = found.direct(chosen)
    np.testing.assert_allclose(
        found.gradients(chosen), direct, rtol=0, atol=1e-13 * np.abs(direct).max()
    )


@dataclasses.dataclass(frozen=True)
class Wayward(Reinforce):
    """Its closed form is of another surrogate where the batch is small, so that the shortcut cannot hold."""

    name = "wayward"

    def cotangents(self, *, log_prob, advantage, value=None, entropy=None, return_=None):
        return {"log_prob": -advantage * len(log_prob)}


def test_an_estimator_that_the_shortcut_does_not_hold_for_is_run_as_it_is():
    policy = policy_on(ENDING)
    found = estimates_of(ENDING, policy, Wayward())
    chosen = sample(len(found.episodes), 2)
    assert not found.shortcut(2)
    np.testing.assert_array_equal(found.gradients(chosen), found.direct(chosen))


@pytest.mark.parametrize(
    ("baseline", "factor"), [("none", 1.0), ("mean", 0.5), ("leave_one_out", 1.0)]
)
@pytest.mark.parametrize("reward_to_go", [False, True])
def test_with_two_episodes_the_own_mean_halves_the_gradient(baseline, factor, reward_to_go):
    mdp = PROCESS.replaced(horizon=2)
    policy, estimator = (
        policy_on(mdp),
        pg.estimator("reinforce", gamma=1.0, baseline=baseline, reward_to_go=reward_to_go),
    )
    found, target = exact.moments(mdp, policy, estimator, batch=2), exact.gradient(mdp, policy)
    assert found.coupled is (baseline != "none")
    assert found.runs == (36 * 37 // 2 if found.coupled else 36)
    np.testing.assert_allclose(found.mean, factor * target, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("baseline", "factor"), [("mean", 0.75), ("leave_one_out", 1.0)])
def test_with_four_episodes_the_own_mean_takes_a_quarter(baseline, factor):
    policy, estimator = policy_on(SHORT), pg.estimator("reinforce", gamma=1.0, baseline=baseline)
    found = exact.moments(SHORT, policy, estimator, batch=4)
    assert found.runs == 3876  # 16 episodes, four at a time, in any order
    np.testing.assert_allclose(
        found.mean, factor * exact.gradient(SHORT, policy), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("reward_to_go", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_bias_is_nothing_or_minus_one_over_n_of_the_gradient(size, reward_to_go):
    mdp = exact.random(2, 2, 2 if size < 4 else 1, 0)
    target = exact.gradient(mdp, THIRDS)
    for baseline, factor in (("none", 0.0), ("mean", -1 / size), ("leave_one_out", 0.0)):
        estimator = pg.estimator(
            "reinforce", gamma=1.0, baseline=baseline, reward_to_go=reward_to_go
        )
        moments = exact.moments(mdp, THIRDS, estimator, batch=size)
        # A batch's gradient has below 50 operations on numbers of some units, and the batches' weights sum to 1.
        np.testing.assert_allclose(
            moments.mean - target, factor * target, rtol=0, atol=50 * np.finfo(float).eps
        )
        assert moments.variance > 0


@pytest.mark.parametrize("name", ["trajectory_is", "pdis", "averaged_ratio", "wis"])
def test_ratios_make_up_for_another_policy_where_no_bias_is_claimed(name):
    mdp = exact.random(2, 2, 2, 0)
    target, estimator = exact.gradient(mdp, THIRDS), pg.estimator(name, gamma=1.0)
    mean = exact.moments(mdp, THIRDS, estimator, batch=2, behaviour=EIGHTHS).mean
    # As in the test of one over n; a bias is far above.
    assert (
        np.allclose(mean, target, rtol=0, atol=50 * np.finfo(float).eps)
        == estimator.claims.unbiased
    )
    assert np.allclose(mean, target, rtol=0, atol=1e-6) == estimator.claims.unbiased


def test_an_estimator_with_a_critic_needs_a_policy():
    with pytest.raises(
        EstimatorError, match="expected a pgcore policy, got a table of probabilities"
    ):
        exact.moments(SHORT, THIRDS, pg.estimator("actor_critic"))


def test_the_covariance_is_that_of_weighted_batches():
    policy, estimator = policy_on(SHORT), pg.estimator("reinforce", gamma=0.9, baseline="mean")
    found = exact.moments(SHORT, policy, estimator, batch=2)
    estimates = estimates_of(SHORT, policy, estimator)
    chosen, weights = all_tuples(estimates.episodes, 2, ordered=True)
    gradients = estimates.direct(chosen)
    assert weights.sum() == pytest.approx(1.0, rel=1e-14)
    np.testing.assert_allclose(found.mean, weights @ gradients, rtol=0, atol=1e-14)
    np.testing.assert_allclose(
        found.covariance, np.cov(gradients.T, aweights=weights, ddof=0), rtol=0, atol=1e-14
    )


def test_independent_episodes_share_the_variance():
    policy, estimator = policy_on(PROCESS), pg.estimator("reinforce", gamma=1.0)
    one, four = (exact.moments(PROCESS, policy, estimator, batch=size) for size in (1, 4))
    assert (one.runs, four.runs, four.coupled) == (1296, 1296, False)
    assert four.variance == pytest.approx(one.variance / 4, rel=1e-14)


@dataclasses.dataclass(frozen=True)
class FirstCounts(Reinforce):
    """The first episode of a batch counts threefold: order matters."""

    name = "first_counts"

    def signals(self, batch, evaluate):
        found = super().signals(batch, evaluate)
        return {"advantage": found["advantage"] * np.where(batch.episode_of_step == 0, 3.0, 1.0)}


def test_batches_are_told_apart_by_order_where_an_estimator_does():
    policy = policy_on(SHORT)
    found = exact.moments(SHORT, policy, FirstCounts(gamma=1.0), batch=2)
    assert found.runs == 16**2
    np.testing.assert_allclose(found.mean, 2 * exact.gradient(SHORT, policy), rtol=0, atol=1e-14)


@dataclasses.dataclass(frozen=True)
class MiddleCounts(Reinforce):
    """The second of three episodes counts threefold: every other order but the reverse is another batch."""

    name = "middle_counts"

    def signals(self, batch, evaluate):
        found = super().signals(batch, evaluate)
        middle = (batch.episode_of_step == 1) & (batch.num_episodes == 3)
        return {"advantage": found["advantage"] * np.where(middle, 3.0, 1.0)}


@dataclasses.dataclass(frozen=True)
class FromThreeOn(Reinforce):
    """Takes the batch's mean off from three episodes on."""

    name = "from_three_on"

    def signals(self, batch, evaluate):
        found = super().signals(batch, evaluate)["advantage"]
        means = np.add.reduceat(batch.rewards, batch.episode_starts).mean()
        return {"advantage": found - means * (batch.num_episodes > 2)}


def test_coupling_and_order_are_looked_for_at_the_asked_size():
    policy = policy_on(SHORT)
    every = itertools.product(range(16), repeat=3)
    direct = estimates_of(SHORT, policy, MiddleCounts(gamma=1.0)).direct(np.array(list(every)))
    found = exact.moments(SHORT, policy, MiddleCounts(gamma=1.0), batch=3)
    assert (found.coupled, found.runs) == (True, len(direct))
    np.testing.assert_allclose(
        found.mean, 5 / 3 * exact.gradient(SHORT, policy), rtol=0, atol=1e-14
    )
    pairs, triples = (
        exact.moments(SHORT, policy, FromThreeOn(gamma=1.0), batch=size) for size in (2, 3)
    )
    assert (pairs.coupled, pairs.runs) == (False, 16)
    assert (triples.coupled, triples.runs) == (True, 16 * 17 * 18 // 6)
    single = SHORT.replaced(horizon=1)
    tabled = exact.moments(
        single, THIRDS, FromThreeOn(gamma=1.0), batch=3
    )  # where nothing is held to `pg.gradient`
    np.testing.assert_allclose(
        tabled.mean, 2 / 3 * exact.gradient(single, THIRDS), rtol=0, atol=1e-14
    )
    np.testing.assert_allclose(
        triples.mean, 2 / 3 * exact.gradient(SHORT, policy), rtol=0, atol=1e-14
    )


def test_signals_that_others_do_not_change_are_computed_once_an_episode(monkeypatch):
    policy, calls = policy_on(SHORT, np.zeros(2)), []
    original = PPO.signals
    monkeypatch.setattr(
        PPO, "signals", lambda self, *given: calls.append(self.normalise) or original(self, *given)
    )
    for normalise in ("minibatch", "batch"):
        exact.moments(SHORT, policy, pg.estimator("ppo", normalise=normalise), batch=4)
    assert calls.count("minibatch") < 500
    assert calls.count("batch") > 3876  # once a batch, and on samples


@dataclasses.dataclass(frozen=True)
class WaywardFromThreeOn(Wayward):
    """Refuses fewer than three episodes, so that no smaller batch shows that the shortcut does not hold."""

    name = "wayward_from_three_on"

    def signals(self, batch, evaluate):
        if batch.num_episodes < 3:
            raise BatchError(
                "wayward_from_three_on: expected at least 3 episodes, got fewer; collect more"
            )
        return super().signals(batch, evaluate)


def test_the_shortcut_is_verified_at_the_asked_size():
    found = estimates_of(SHORT, policy_on(SHORT), WaywardFromThreeOn())
    assert not found.shortcut(3)
    chosen = sample(16, 3)
    np.testing.assert_array_equal(found.gradients(chosen), found.direct(chosen))
    with pytest.raises(BatchError, match="at least 3 episodes"):
        found.gradients(chosen[:, :2])


def timed(mdp, critic, seed=0):
    """Return the process with time in its state, and a policy that has the plain one's logits at every time and this critic."""
    plain, process = policy_on(mdp, seed=seed), mdp.with_time()
    logits = np.tile(plain.parameters()["network.table"], (mdp.horizon + 1, 1))
    policy = policy_on(process, critic)
    policy.load({**policy.parameters(), "network.table": logits})
    return process, policy


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.9, 1.0])
def test_gae_is_unbiased_with_exact_values_of_every_time_and_else_at_lambda_one_only(gae_lambda):
    mdp = PROCESS.replaced(horizon=3)
    estimator = pg.estimator(
        "actor_critic", gamma=1.0, gae_lambda=gae_lambda, reduction="trajectory"
    )
    right = exact.values(mdp, policy_on(mdp)).ravel()
    assert relative_bias(*timed(mdp, right), estimator) < 1e-13
    wrong = relative_bias(*timed(mdp, right + np.linspace(-1.0, 1.0, len(right))), estimator)
    blind = relative_bias(
        mdp, policy_on(mdp, exact.time_blind_values(mdp, policy_on(mdp))), estimator
    )
    if gae_lambda == 1.0:
        assert max(wrong, blind) < 1e-13
    else:
        assert min(wrong, blind) > 1e-3


@pytest.mark.parametrize(
    ("rho_bar", "c_bar", "trace_lambda"), [(1.0, 1.0, 1.0), (0.6, 2.0, 0.7), (1.5, 0.8, 0.0)]
)
def test_vtrace_stands_still_at_the_value_of_a_policy_between_the_two(rho_bar, c_bar, trace_lambda):
    mdp = PROCESS.replaced(horizon=3, gamma=0.9)
    limited = np.minimum(
        rho_bar * tabulated(policy_on(mdp, seed=1), mdp).probabilities,
        tabulated(policy_on(mdp), mdp).probabilities,
    )
    between = exact.softmax_table(limited / limited.sum(axis=1, keepdims=True))
    right = exact.values(mdp, between)
    estimator = pg.estimator(
        "vtrace",
        rho_bar=rho_bar,
        c_bar=c_bar,
        trace_lambda=trace_lambda,
        gamma=0.9,
        reduction="trajectory",
    )

    def expected(critic):
        process, policy = timed(mdp, critic)
        acting = timed(mdp, critic, seed=1)[1]
        table = tabulated(policy, process)
        mean = exact.moments(process, policy, estimator, behaviour=acting).mean
        return process, table, acting, mean[table.actor_mask], mean[~table.actor_mask]

    process, table, acting, mean, critic = expected(right.ravel())
    np.testing.assert_allclose(critic, 0.0, atol=1e-15)
    # The policy moves by that policy's advantages, each weighed by how often the step is taken and by the limited ratio.
    gain = np.zeros((process.states, mdp.actions))
    gain[:-3] = (limited * (exact.action_values(mdp, between) - right[:-1, :, None])).reshape(
        -1, mdp.actions
    )
    seen = exact.visits(process, acting).sum(axis=0)
    wanted = -np.tensordot(seen[:, None] * gain, table.scores, 2)[table.actor_mask]
    np.testing.assert_allclose(mean, wanted, rtol=0, atol=1e-14)
    own = exact.values(mdp, policy_on(mdp))
    assert np.abs(expected(own.ravel())[4]).max() > 0.01


def test_all_actions_with_their_exact_values_are_unbiased_and_much_less_noisy():
    mdp = PROCESS.replaced(horizon=3)
    process, plain = timed(mdp, np.zeros(4 * mdp.states))
    policy = audit_policy(policies(process)["action-value critic"], 0)
    exact_values = np.zeros((process.states, process.actions))
    exact_values[: 3 * mdp.states] = exact.action_values(mdp, policy_on(mdp)).reshape(
        -1, mdp.actions
    )
    right = {"network.table": plain.parameters()["network.table"], "critic.table": exact_values}
    expected, reinforce = pg.estimator("expected", gamma=1.0), pg.estimator("reinforce", gamma=1.0)
    policy.load(right)
    assert relative_bias(process, policy, expected) < 1e-14
    own = tabulated(policy, process).actor_mask
    variances = [
        np.trace(exact.moments(process, policy, each).covariance[np.ix_(own, own)])
        for each in (expected, reinforce)
    ]
    assert variances == pytest.approx([0.44430, 2.59218], abs=5e-6)
    policy.load(
        right
        | {
            "critic.table": exact_values
            + np.linspace(-1.0, 1.0, len(exact_values))[:, None] * [1.0, -1.0]
        }
    )
    assert relative_bias(process, policy, expected) > 0.1


def test_a_two_armed_bandit_has_its_smallest_variance_at_the_swapped_mean():
    mdp = exact.MDP(np.ones((1, 2, 1)), np.array([[1.0, 0.0]]), np.ones(1), horizon=1)
    table = exact.softmax_table([[0.8, 0.2]])

    def variance(value):
        estimator = pg.estimator("reinforce", gamma=1.0, baseline="constant", baseline_value=value)
        return exact.moments(mdp, table, estimator).variance

    assert [variance(value) for value in (0.0, 0.8)] == pytest.approx([0.0128, 0.1152], rel=1e-12)
    assert variance(0.2) == pytest.approx(0.0, abs=1e-30)
    assert min(np.linspace(-1, 1, 21), key=variance) == pytest.approx(0.2)


def test_causality_can_raise_the_variance_from_nothing():
    # What the first action earns, the second step takes back whatever is done: every episode's return is 0.
    transition = np.zeros((3, 2, 3))
    transition[0, 0, 1] = transition[0, 1, 2] = transition[1, :, 1] = transition[2, :, 2] = 1
    reward = np.array([[1, -1], [-1, -1], [1, 1]])
    mdp = exact.MDP(transition, reward, np.array([1, 0, 0]), horizon=2)
    table = exact.softmax_table([[1 / 4, 3 / 4]] * 3)
    full, causal = (
        exact.moments(mdp, table, pg.estimator("reinforce", gamma=1.0, reward_to_go=flag))
        for flag in (False, True)
    )
    # Every number is a few quarters, which no operation rounds.
    assert full.mean.tolist() == causal.mean.tolist() == [0.0] * 6
    assert (full.variance, causal.variance) == (0.0, 3 / 8)


# Of figures that depend on the process, the notes' come up too: on the first process that has them, trying seeds in order.


@pytest.mark.parametrize(
    ("mdp", "figure"),
    [(ENDING, 0.058827), (exact.random(4, 2, 4, 161, terminals=1), 0.043768)],
    ids=["ours", "notes"],
)
def test_dividing_by_all_steps_is_biased_where_lengths_vary(mdp, figure):
    policy, target = policy_on(mdp), exact.gradient(mdp, policy_on(mdp))
    by_steps, by_episodes = (
        pg.estimator("reinforce", gamma=1.0, reduction=each) for each in ("step", "trajectory")
    )
    length = exact.visits(mdp, policy).sum()
    mean = exact.moments(mdp, policy, by_steps, batch=2).mean
    assert np.linalg.norm(length * mean - target) / np.linalg.norm(target) == pytest.approx(
        figure, abs=5e-7
    )
    assert relative_bias(mdp, policy, by_episodes, batch=2) < 1e-14
    # Where all have the same length it is only smaller.
    same = exact.moments(PROCESS, policy_on(PROCESS), by_steps).mean
    np.testing.assert_allclose(
        4 * same, exact.gradient(PROCESS, policy_on(PROCESS)), rtol=0, atol=1e-13
    )


@pytest.mark.parametrize(
    ("mdp", "figure", "ratio"),
    [(PROCESS, 0.376019, 44.3676), (exact.random(3, 2, 4, 9019), 0.030118, 21.2787)],
    ids=["ours", "notes"],
)
def test_a_time_limit_taken_for_an_end_is_biased(mdp, figure, ratio):
    # The process goes on to its horizon; episodes are watched for two steps. Bootstrapped from exact values, nothing is lost.
    paid = mdp.replaced(reward=mdp.reward + 3.0)  # so that what is cut off is worth something
    process, policy = timed(paid, exact.values(paid, policy_on(paid)).ravel())
    table, first_two = tabulated(policy, process), slice(0, 2 * mdp.states * mdp.actions)
    target = exact.gradient(process, policy)[first_two]
    estimator = pg.estimator("reinforce", gamma=1.0, baseline="value", value_coefficient=0.0)
    cut = exact.all_episodes(process, table.probabilities, cut=2)
    ended = dataclasses.replace(cut, terminated=np.ones(len(cut), np.bool_))
    bias, variance = {}, {}
    for name, episodes in (("bootstrapped", cut), ("ended", ended)):
        estimates = Estimates(process, table, estimator, episodes, table.probabilities)
        assert estimates.shortcut(1)
        found = estimates.gradients(np.arange(len(cut))[:, None])
        mean = episodes.probabilities @ found[:, first_two]
        bias[name] = np.linalg.norm(mean - target) / np.linalg.norm(target)
        variance[name] = episodes.probabilities @ ((found[:, first_two] - mean) ** 2).sum(axis=1)
    assert bias["bootstrapped"] < 1e-13
    assert bias["ended"] == pytest.approx(figure, abs=5e-7)
    assert variance["ended"] / variance["bootstrapped"] == pytest.approx(ratio, abs=5e-5)


@pytest.mark.parametrize(
    ("mdp", "figure"),
    [(PROCESS, 0.359300), (exact.random(3, 2, 4, 74), 0.157407)],
    ids=["ours", "notes"],
)
def test_the_reward_of_the_step_alone_is_biased(mdp, figure):
    alone = pg.estimator("reinforce", gamma=0.0)  # the reward-to-go, with nothing after it
    assert relative_bias(mdp, policy_on(mdp), alone) == pytest.approx(figure, abs=5e-7)


@pytest.mark.parametrize(
    ("mdp", "figure"),
    [(PROCESS, 0.804157), (exact.random(3, 2, 4, 3234), 0.573463)],
    ids=["ours", "notes"],
)
def test_the_averaged_ratio_points_elsewhere_on_far_episodes(mdp, figure):
    policy, far = policy_on(mdp), audit_policy(policies(mdp)["no critic"], 3, scale=2.0)
    target = exact.gradient(mdp, policy)
    cosine = {}
    for name in ("averaged_ratio", "pdis"):
        mean = exact.moments(mdp, policy, pg.estimator(name, gamma=1.0), behaviour=far).mean
        cosine[name] = mean @ target / (np.linalg.norm(mean) * np.linalg.norm(target))
    assert cosine == pytest.approx({"averaged_ratio": figure, "pdis": 1.0}, abs=5e-7)


@pytest.mark.parametrize(
    ("mdp", "right", "notes"),
    [(PROCESS, 1.025228, 18.920077), (exact.random(3, 2, 4, 189), 1.092515, 41.559620)],
    ids=["ours", "notes"],
)
def test_the_notes_step_overshoots_the_kl(mdp, right, notes):
    policy, bound = policy_on(mdp), 0.01
    table, gradient = tabulated(policy, mdp), exact.gradient(mdp, policy)
    visited = exact.visits(mdp, policy).sum(axis=0) / mdp.horizon
    fisher = np.einsum("s,sa,sad,sae->de", visited, table.probabilities, table.scores, table.scores)
    natural = np.linalg.pinv(fisher, rcond=1e-10) @ gradient
    kl = {}
    for name, slope in (("right", gradient @ natural), ("notes", gradient @ fisher @ gradient)):
        moved = policy_on(mdp)
        step = -np.sqrt(2 * bound / slope) * natural
        moved.load({"network.table": policy.parameters()["network.table"] + step.reshape(3, 2)})
        log_ratio = np.log(table.probabilities / tabulated(moved, mdp).probabilities)
        kl[name] = visited @ (table.probabilities * log_ratio).sum(axis=1) / bound
    assert kl == pytest.approx({"right": right, "notes": notes}, abs=5e-7)


def test_importance_weights_make_up_for_another_policy():
    policy, behaviour = policy_on(ENDING), policy_on(ENDING, seed=9)
    plain = pg.estimator("reinforce", gamma=1.0)
    assert relative_bias(ENDING, policy, plain, behaviour=behaviour) > 0.1
    assert relative_bias(ENDING, policy, Weighted(gamma=1.0), behaviour=behaviour) < 1e-13
    assert relative_bias(ENDING, policy, Weighted(gamma=1.0)) < 1e-13


@dataclasses.dataclass(frozen=True)
class Weighted(Reinforce):
    """REINFORCE times the ratio of the whole episode's probabilities."""

    name = "weighted"

    def signals(self, batch, evaluate):
        log_ratio = np.add.reduceat(
            evaluate("log_prob")["log_prob"] - batch.log_probs, batch.episode_starts
        )
        return {
            "advantage": super().signals(batch, evaluate)["advantage"]
            * np.exp(log_ratio)[batch.episode_of_step]
        }


@dataclasses.dataclass(frozen=True)
class Broken(Reinforce):
    """Gives NaN where an episode's return is negative."""

    name = "broken"

    def signals(self, batch, evaluate):
        return {"advantage": np.sqrt(super().signals(batch, evaluate)["advantage"])}


def test_bad_requests_are_told():
    policy = policy_on(PROCESS)
    with pytest.raises(
        MDPError,
        match=r"expected at most 2,000,000 batches of 3 episodes, got 363,637,296 from 1,296 episodes; use batches of 2",
    ):
        exact.moments(PROCESS, policy, pg.estimator("reinforce", baseline="mean"), batch=3)
    with pytest.raises(MDPError, match="moments batch: expected an integer of at least 1, got 0"):
        exact.moments(PROCESS, policy, pg.estimator("reinforce"), batch=0)
    with pytest.raises(BatchError, match="at least 2 episodes to leave one out"):
        exact.moments(PROCESS, policy, pg.estimator("reinforce", baseline="leave_one_out"))
    with pytest.raises(EstimatorError, match="got no value"):
        exact.moments(PROCESS, policy, pg.estimator("ppo"))
    with pytest.raises(NonFiniteError):
        exact.moments(PROCESS, policy, Broken(gamma=1.0))


@dataclasses.dataclass(frozen=True)
class Curious(Reinforce):
    """Asks `evaluate` for what only the library's own has."""

    name = "curious"

    def signals(self, batch, evaluate):
        assert evaluate.policy.spec.critic == "none"  # pyright: ignore[reportAttributeAccessIssue]
        return super().signals(batch, evaluate)


def test_an_estimator_that_the_shortcut_cannot_run_is_run_as_it_is():
    policy = policy_on(SHORT)
    assert not estimates_of(SHORT, policy, Curious()).shortcut(1)
    assert relative_bias(SHORT, policy, Curious(gamma=1.0)) < 1e-14


@dataclasses.dataclass(frozen=True)
class Sociable(Reinforce):
    """Needs others, and says so in its own way."""

    name = "sociable"

    def signals(self, batch, evaluate):
        if batch.num_episodes < 2:
            raise EstimatorError("sociable: expected at least 2 episodes, got 1; collect more")
        return super().signals(batch, evaluate)


def test_whatever_error_an_estimator_raises_for_single_episodes_it_is_run_on_all_batches():
    found = exact.moments(SHORT, policy_on(SHORT), Sociable(gamma=1.0), batch=2)
    assert found.coupled
    np.testing.assert_allclose(
        found.mean,
        exact.moments(SHORT, policy_on(SHORT), pg.estimator("reinforce", gamma=1.0)).mean,
        rtol=1e-12,
    )
    with pytest.raises(EstimatorError, match="sociable: expected at least 2 episodes"):
        exact.moments(SHORT, policy_on(SHORT), Sociable(gamma=1.0))


@dataclasses.dataclass(frozen=True)
class Writing(Reinforce):
    """Weighs by each step's ratio, and writes into what `evaluate` returned to that end."""

    name = "writing"

    def signals(self, batch, evaluate):
        log_ratio = evaluate("log_prob")["log_prob"]
        log_ratio -= batch.log_probs
        return {"advantage": super().signals(batch, evaluate)["advantage"] * np.exp(log_ratio)}


@pytest.mark.parametrize("batch", [1, 2])
def test_an_estimator_may_write_into_what_was_evaluated(batch):
    policy, behaviour = policy_on(SHORT), policy_on(SHORT, seed=1)
    found = exact.moments(SHORT, policy, Writing(gamma=1.0), batch=batch, behaviour=behaviour)
    single = exact.moments(SHORT, policy, Writing(gamma=1.0), behaviour=behaviour)
    np.testing.assert_allclose(found.mean, single.mean, rtol=1e-12)


def test_advice_fits_where_order_matters():
    episodes = exact.all_episodes(exact.random(2, 2, 4, seed=0), np.full((2, 2), 0.5))
    with pytest.raises(
        MDPError, match=r"use batches of 2, or a process with at most 125 episodes"
    ) as caught:
        all_tuples(episodes, 3, ordered=True)
    assert f"{len(episodes) ** 3:,}" in str(caught.value)
    assert len(all_tuples(episodes, 2, ordered=True)[0]) == len(episodes) ** 2
