"""rlax's losses and returns, in float64."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import pgcore as pg
from pgcore.returns import gae, n_step_returns, next_values, returns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    jax = pytest.importorskip("jax")
    rlax = pytest.importorskip("rlax")

pytestmark = pytest.mark.filterwarnings("ignore:Rlax softmax:PendingDeprecationWarning")

GAMMA = 0.9


@pytest.fixture(autouse=True)
def float64():
    """JAX in double precision."""
    with jax.enable_x64(True):
        yield


def composed(**parts):
    return pg.estimator("policy_gradient", **{"advantage": "given", "critic": None} | parts)


def gradient(loss, *arrays):
    """Return float64 derivatives of a loss in each array."""
    derivatives = jax.grad(loss, argnums=tuple(range(len(arrays))))(*arrays)
    return [np.asarray(derivative) for derivative in derivatives]


def episodes(steps):
    """Yield each episode's slice, and its [T] discounts and [T] values of the next states."""
    lengths, finals = steps.fields["episode_lengths"], steps.fields["final_values"]
    ends = np.cumsum(lengths)
    for stop, length, ended, final in zip(
        ends, lengths, steps.fields["terminated"], finals, strict=True
    ):
        index = slice(stop - length, stop)
        discounts = np.full(length, GAMMA)
        discounts[-1] *= not ended
        yield index, discounts, np.append(steps.values[index][1:], final)


def by_episode(function, steps):
    """Return [B] results of a function of rewards, discounts, values and next values."""
    pieces = [
        function(steps.fields["rewards"][index], discounts, steps.values[index], following)
        for index, discounts, following in episodes(steps)
    ]
    return np.concatenate([np.asarray(piece) for piece in pieces])


def action_log_probs(logits, actions):
    log_pi = jax.nn.log_softmax(logits)
    return log_pi[np.arange(len(actions)), actions]


# Policy losses


def test_policy_gradient_and_entropy(steps, rows, agree):
    """rlax divides weighted terms by their number, as `weighted` of `step` does."""
    fields, extras = steps.fields, steps.fields["extras"]

    def loss(logits):
        actor = rlax.policy_gradient_loss(
            logits, fields["actions"], extras["advantages"], extras["weights"]
        )
        return actor + 0.3 * rlax.entropy_loss(logits, extras["weights"])

    estimator = composed(
        objective="score",
        entropy_coefficient=0.3,
        reduction={"name": "weighted", "inner": "step"},
    )
    ours = rows(estimator, steps.logits, fields)
    agree(ours.logits, gradient(loss, steps.logits)[0])
    assert ours.loss == pytest.approx(float(loss(steps.logits)), rel=1e-12)


def clipped_loss(steps, epsilon):
    def loss(logits):
        log_pi = action_log_probs(logits, steps.fields["actions"])
        ratios = jax.numpy.exp(log_pi - steps.fields["log_probs"])
        return rlax.clipped_surrogate_pg_loss(ratios, steps.fields["extras"]["advantages"], epsilon)

    return loss


@pytest.mark.parametrize("epsilon", [0.1, 0.2, 0.5])
def test_clipped_surrogate(steps, rows, agree, epsilon):
    loss = clipped_loss(steps, epsilon)
    estimator = composed(objective={"name": "clip", "low": epsilon, "high": epsilon})
    ours = rows(estimator, steps.logits, steps.fields)
    agree(ours.logits, gradient(loss, steps.logits)[0])
    assert ours.loss == pytest.approx(float(loss(steps.logits)), rel=1e-12)


def slopes(log_ratio, advantage, epsilon=0.2):
    """Return the derivative of one step's clipped loss in log pi: rlax's and pgcore's."""

    def loss(log_pi):
        return rlax.clipped_surrogate_pg_loss(jax.numpy.exp(log_pi), np.array([advantage]), epsilon)

    inputs = {"log_prob": np.array([log_ratio]), "old_log_prob": np.zeros(1)}
    estimator = composed(objective={"name": "clip", "low": epsilon, "high": epsilon})
    ours = estimator.cotangents(**inputs, advantage=np.array([advantage]))["log_prob"]
    return gradient(loss, np.array([log_ratio]))[0].item(), ours.item()


def test_far_out_rlax_is_nan():
    """Its gradient is 0 times an infinite ratio; that of a clipped step is 0."""
    theirs, ours = slopes(1000.0, 1.0)
    assert np.isnan(theirs)
    assert ours == 0.0
    theirs, ours = slopes(700.0, 1.0)
    assert theirs == ours == 0.0


def test_at_a_ratio_of_1_nothing_is_halved():
    theirs, ours = slopes(0.0, 1.0)
    assert theirs == ours == -1.0


def test_at_the_bound_rlax_takes_half():
    """At a tie `fmin` takes its second argument, the clipped ratio, and JAX's clip halves it there.

    By convention a ratio at its bound counts as unclipped, so that the derivative in it is -A.
    """

    def loss(ratio):
        return rlax.clipped_surrogate_pg_loss(ratio, np.ones(1), 0.25)

    assert gradient(loss, np.array([1.25]))[0].item() == -0.5
    estimator = composed(objective={"name": "clip", "low": 0.25, "high": 0.25})
    inputs = {"log_prob": np.log1p([0.25]), "old_log_prob": np.zeros(1), "advantage": np.ones(1)}
    slope = estimator.cotangents(**inputs)["log_prob"].item()
    assert slope == pytest.approx(-1.25, rel=1e-15), "-A r, the derivative in log r"


def test_all_actions(steps, rows, agree):
    """`qpg_loss` weighs each probability by Q less its mean, which has the same derivative."""
    q = np.random.default_rng(3).standard_normal(steps.logits.shape)
    estimator = pg.estimator("expected", value_coefficient=0.0, reduction="step")
    fields = steps.fields | {"extras": {"action_values": q}}
    ours = rows(estimator, steps.logits, fields)
    agree(ours.logits, gradient(lambda logits: rlax.qpg_loss(logits, q), steps.logits)[0])


# Returns and advantages


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_gae_and_lambda_returns(steps, agree, gae_lambda):
    def advantages(r_t, discount_t, v_t, v_tp1):
        values = np.append(v_t, v_tp1[-1])
        return rlax.truncated_generalized_advantage_estimation(r_t, discount_t, gae_lambda, values)

    def targets(r_t, discount_t, _, v_tp1):
        return rlax.lambda_returns(r_t, discount_t, v_tp1, gae_lambda)

    fields, values = steps.fields, steps.values
    v_tp1 = next_values(values, fields["episode_lengths"], fields["final_values"])
    ours = gae(fields["rewards"], values, v_tp1, fields["episode_lengths"], GAMMA, gae_lambda)
    agree(ours, by_episode(advantages, steps))
    agree(ours + values, by_episode(targets, steps))


@pytest.mark.parametrize("n", [1, 2, 3, 9])
def test_n_step_returns(steps, agree, n):
    """An episode that is shorter than n ends at its final state, in both."""

    def targets(r_t, discount_t, _, v_tp1):
        return rlax.n_step_bootstrapped_returns(r_t, discount_t, v_tp1, n)

    fields, values = steps.fields, steps.values
    v_tp1 = next_values(values, fields["episode_lengths"], fields["final_values"])
    ours = n_step_returns(fields["rewards"], values, v_tp1, fields["episode_lengths"], GAMMA, n)
    agree(ours, by_episode(targets, steps))


def test_discounted_returns(steps, agree):
    def theirs(r_t, discount_t, *_):
        return rlax.discounted_returns(r_t, discount_t, 0.0)

    ours = returns(steps.fields["rewards"], steps.fields["episode_lengths"], GAMMA)
    agree(ours, by_episode(theirs, steps))


# V-trace


def vtrace_loss(steps, trace_lambda, rho_bar, pg_rho_bar):
    """Return IMPALA's loss by rlax, a function of logits and values."""
    fields = steps.fields

    def loss(logits, values):
        log_pi = action_log_probs(logits, fields["actions"])
        ratios = jax.numpy.exp(jax.lax.stop_gradient(log_pi) - fields["log_probs"])
        total = 0.0
        for (index, discounts, _), final in zip(
            episodes(steps), fields["final_values"], strict=True
        ):
            following = jax.numpy.append(values[index][1:], final)
            trace = rlax.vtrace_td_error_and_advantage(
                values[index],
                jax.lax.stop_gradient(following),
                fields["rewards"][index],
                discounts,
                ratios[index],
                trace_lambda,
                rho_bar,
                pg_rho_bar,
            )
            advantage = jax.lax.stop_gradient(trace.pg_advantage)
            total += jax.numpy.sum(0.25 * trace.errors**2 - log_pi[index] * advantage)
        return total / len(log_pi)

    return loss


@pytest.mark.parametrize("trace_lambda", [1.0, 0.6])
@pytest.mark.parametrize(("rho_bar", "pg_rho_bar"), [(1.0, 1.0), (1.5, 1.5), (1.0, 2.0)])
def test_vtrace(steps, rows, agree, trace_lambda, rho_bar, pg_rho_bar):
    theirs = gradient(
        vtrace_loss(steps, trace_lambda, rho_bar, pg_rho_bar), steps.logits, steps.values
    )
    advantage = {
        "name": "vtrace",
        "gamma": GAMMA,
        "rho_bar": rho_bar,
        "pg_rho_bar": pg_rho_bar,
        "trace_lambda": trace_lambda,
        "bootstrap": "mixed",
    }
    estimator = pg.estimator("policy_gradient", advantage=advantage, objective="score")
    ours = rows(estimator, steps.logits, steps.fields, steps.values)
    agree(ours.logits, theirs[0])
    agree(ours.values, theirs[1])


@pytest.mark.parametrize("trace_lambda", [1.0, 0.6])
def test_vtrace_bootstraps_the_target_or_a_mixture(steps, rows, agree, trace_lambda):
    """Beside lambda below 1 the preset bootstraps v as Espeholt et al. 2018 do, and rlax a mixture."""
    theirs = gradient(vtrace_loss(steps, trace_lambda, 1.0, 1.0), steps.logits, steps.values)
    estimator = pg.estimator("vtrace", gamma=GAMMA, trace_lambda=trace_lambda)
    ours = rows(estimator, steps.logits, steps.fields, steps.values)
    agree(ours.values, theirs[1])
    if trace_lambda == 1.0:
        agree(ours.logits, theirs[0])
    else:
        assert np.abs(ours.logits - theirs[0]).max() > 1e-3


# Action values


@pytest.mark.parametrize("double", [False, True])
def test_q_learning(agree, double):
    rng = np.random.default_rng(7)
    q, target = rng.standard_normal((2, 12, 3))
    actions, rewards = rng.integers(0, 3, 6), rng.standard_normal(6)
    discounts = np.where([True, True, False, True, False, True], GAMMA, 0.0)
    spec = pg.PolicySpec(pg.Table(12), pg.EpsilonGreedy(3, epsilon=0.1))
    policies = [pg.policy(spec, dtype="float64") for _ in range(2)]
    for policy, values in zip(policies, (q, target), strict=True):
        policy.load({"network.table": values})
    batch = pg.Batch(
        observations=np.arange(6),
        final_observations=np.arange(6, 12),
        actions=actions,
        rewards=rewards,
        episode_lengths=np.ones(6, int),
        terminated=discounts == 0,
    )

    def loss(q_tm1):
        total = 0.0
        for t in range(6):
            further = (target[6 + t], q[6 + t]) if double else (target[6 + t],)
            error_of = rlax.double_q_learning if double else rlax.q_learning
            error = error_of(q_tm1[t], actions[t], rewards[t], discounts[t], *further)
            total += 0.5 * error**2 / 6
        return total

    estimator = pg.estimator("q_learning", gamma=GAMMA, double=double)
    ours = pg.gradient(policies[0], estimator, batch, target=policies[1]).numpy()
    agree(ours["network.table"][:6], gradient(loss, q[:6])[0])
