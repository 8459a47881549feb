"""What each estimator holds constant, against double loops over every episode, and the bugs that these loops catch."""

from __future__ import annotations

import numpy as np
import pytest

import pgcore as pg
import pgcore.parts.composition
import pgcore_estimators.parts.gae
import pgcore_estimators.parts.n_step
import pgcore_estimators.parts.returns
import pgcore_estimators.terms
from pgcore.errors import BatchError
from pgcore.interfaces.surrogate import Surrogate
from pgcore_check.cases.cases import NETWORKS, make_case
from pgcore_check.proofs import variants

HEADS = variants("heads")

ESTIMATORS = {
    "reward-to-go": pg.estimator("reinforce", gamma=0.9),
    "full return": pg.estimator("reinforce", gamma=0.9, reward_to_go=False),
    "constant": pg.estimator("reinforce", gamma=0.9, baseline="constant", baseline_value=0.3),
    "mean": pg.estimator("reinforce", gamma=0.9, baseline="mean"),
    "leave one out": pg.estimator(
        "reinforce", gamma=0.9, baseline="leave_one_out", discount_state=True
    ),
    "optimal": pg.estimator("reinforce", gamma=0.9, baseline="optimal"),
    "optimal, discounted": pg.estimator(
        "reinforce", gamma=0.9, baseline="optimal", discount_state=True
    ),
    "value": pg.estimator("reinforce", gamma=0.9, baseline="value"),
    "normalised": pg.estimator("reinforce", gamma=0.9, normalise="batch", ddof=0),
    "td": pg.estimator("actor_critic", advantage="td", gamma=0.9),
    "n-step": pg.estimator("actor_critic", advantage="n_step", n_steps=3, gamma=0.9),
    "gae": pg.estimator("actor_critic", gamma=0.9, gae_lambda=0.8),
    "gae normalised": pg.estimator("actor_critic", gamma=0.9, gae_lambda=0.8, normalise="batch"),
    "ppo": pg.estimator("ppo", gamma=0.9, gae_lambda=0.8, normalise="batch", value_clip=0.2),
    "ppo kl": pg.estimator("ppo", gamma=0.9, gae_lambda=0.8, normalise="none", objective="kl"),
    "trpo": pg.estimator("trpo", gamma=0.9, gae_lambda=0.8),
}


def made(head="hot", padding=0):
    return make_case(
        pg.PolicySpec(NETWORKS["tanh"], HEADS[head], "separate"),
        "numpy",
        "float64",
        32,
        padding=padding,
    )


def recorded(batch, **changes):
    """Return the batch with other recorded arrays."""
    names = (
        "observations",
        "actions",
        "rewards",
        "episode_lengths",
        "terminated",
        "final_observations",
        "log_probs",
    )
    names = (*names, "values", "final_values", "action_mask", "step_weights", "extras")
    return pg.Batch(**{name: getattr(batch, name) for name in names} | changes)


def episodes(batch):
    """Yield the real episodes' numbers and slices of steps."""
    for episode in np.flatnonzero(batch.episode_weights):
        yield episode, slice(batch.episode_starts[episode], batch.episode_ends[episode] + 1)


def summed(rewards, gamma, last):
    """Return sum_k gamma^k r_{t+k} + gamma^(T-t) last of every t."""
    steps = len(rewards)
    return [
        sum(gamma**k * rewards[t + k] for k in range(steps - t)) + gamma ** (steps - t) * last
        for t in range(steps)
    ]


def standardised(x, ddof):
    mean = sum(x) / len(x)
    return [
        (each - mean) / (np.sqrt(sum((y - mean) ** 2 for y in x) / (len(x) - ddof)) + 1e-8)
        for each in x
    ]


def optimal(policy, batch, estimator, returns, episode):
    """Return the scalar E[<u, g>] / E[|g|^2] over the other episodes, u the score weighed by the return."""
    above = below = 0.0
    for other, steps in episodes(batch):
        if other == episode:
            continue
        own = batch.episodes([other])
        discount = (
            estimator.gamma ** np.arange(steps.stop - steps.start)
            if estimator.discount_state
            else 1.0
        )
        g = policy.episode_scores(own, discount * np.ones(own.num_steps))[0]
        u = policy.episode_scores(own, discount * np.array(returns[other]))[0]
        above, below = above + u @ g, below + g @ g
    return above / below


def expected(policy, estimator, batch):
    """Return the signals of the real steps by name."""
    critic = policy.evaluate(batch, ("value", "final_value"))
    value = critic["value"] if batch.values is None else batch.values
    by_name = expected_of_reinforce if estimator.name == "reinforce" else expected_of_critic
    found = by_name(policy, estimator, batch, value, critic["final_value"])
    if estimator.normalise == "batch":
        found["advantage"] = standardised(found["advantage"], estimator.ddof)
    real = slice(0, len(found["advantage"]))
    if estimator.name in ("ppo", "trpo"):
        found["old_log_prob"] = batch.log_probs[real]
    if estimator.name == "ppo":
        if estimator.value_clip is not None:
            found["old_value"] = value[real]
        if estimator.objective == "kl":
            found["reference"] = batch.extras["reference"][real]
    return found


def expected_of_reinforce(policy, estimator, batch, value, final):
    bootstrapped = estimator.baseline == "value"
    returns = {
        episode: summed(
            batch.rewards[steps], estimator.gamma, final[episode] if bootstrapped else 0.0
        )
        for episode, steps in episodes(batch)
    }
    first = {episode: g_t[0] for episode, g_t in returns.items()}
    advantage = []
    for episode, steps in episodes(batch):
        others = [first[other] for other in first if other != episode]
        baseline = {
            "none": lambda: 0.0,
            "constant": lambda: estimator.baseline_value,
            "mean": lambda: sum(first.values()) / len(first),
            "leave_one_out": lambda others=others: sum(others) / len(others),
            "optimal": lambda episode=episode: optimal(policy, batch, estimator, returns, episode),
            "value": lambda steps=steps: value[steps],
        }[estimator.baseline]() * np.ones(len(returns[episode]))
        for t, g_t in enumerate(returns[episode]):
            given = g_t if estimator.reward_to_go else first[episode]
            advantage.append(
                (estimator.gamma**t if estimator.discount_state else 1.0) * (given - baseline[t])
            )
    target = [g_t for own in returns.values() for g_t in own]
    return {"advantage": advantage} | ({"return_": target} if bootstrapped else {})


def expected_of_critic(policy, estimator, batch, value, final):
    gamma = estimator.gamma
    advantage, target = [], []
    for episode, steps in episodes(batch):
        r, v = batch.rewards[steps], np.append(value[steps], final[episode])
        length = len(r)
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            if estimator.name in ("ppo", "trpo") or estimator.advantage == "gae":
                a = sum(
                    (gamma * estimator.gae_lambda) ** k * delta[t + k] for k in range(length - t)
                )
            else:
                n = min(1 if estimator.advantage == "td" else estimator.n_steps, length - t)
                a = sum(gamma**k * r[t + k] for k in range(n)) + gamma**n * v[t + n] - v[t]
            advantage.append(a)
            target.append(a + v[t])
    return {"advantage": advantage, "return_": target}


def gap(name, head="hot", padding=0):
    """Return the largest relative difference of any signal from the loops."""
    policy, batch = made(head, padding)
    estimator = ESTIMATORS[name]
    if not padding:  # what is not recorded is the current policy's
        values = batch.values if getattr(estimator, "value_clip", None) else None
        batch = recorded(
            batch, values=values, log_probs=policy.evaluate(batch, ("log_prob",))["log_prob"]
        )
    signals = pg.signals(policy, estimator, batch)
    largest = 0.0
    for key, value in expected(policy, estimator, batch).items():
        exact = np.array(value)
        given, finite = (
            signals[key][: len(exact)],
            np.isfinite(exact),
        )  # a masked action's log-probability is -inf
        assert (np.isfinite(given) == finite).all()
        largest = max(
            largest,
            float(np.abs(given[finite] - exact[finite]).max() / np.abs(exact[finite]).max()),
        )
    return largest


@pytest.mark.parametrize("padding", [0, 9])
@pytest.mark.parametrize("head", ["hot", "shared"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_signals_are_the_loops(name, head, padding):
    assert gap(name, head, padding) < 1e-13


def late(original):
    return lambda r_t, *rest: original(np.append(r_t[1:], 0.0), *rest)


def joined(original):
    """Let episodes run into each other."""

    def run(*arrays):
        return original(
            *[np.array([a.sum()]) if getattr(a, "dtype", None) == np.intp else a for a in arrays]
        )

    return run


def other_ddof(original):
    return lambda x, weights=None, *, ddof: original(x, weights, ddof=1 - ddof)


def epsilon_inside(original):
    return lambda x, weights=None, *, ddof: (x - x.mean()) / np.sqrt(x.var(ddof=ddof) + 1e-8)


def own_mean(original):
    return lambda x: np.full(len(x), x.mean())


def never_bootstrapped(original):
    return lambda v_t, lengths, final: original(v_t, lengths, np.zeros_like(final))


def always_bootstrapped(original):
    return lambda v_t, lengths, final: original(v_t, lengths, v_t[lengths.cumsum() - 1])


def shifted_values(original):
    return lambda v_t, lengths, final: v_t


def own_included(original):
    return lambda g, u, *, per_component: np.full((len(g), 1), (g * u).sum() / (g * g).sum())


def one_step_more(original):
    return lambda r, v, v_next, lengths, gamma, n: original(r, v, v_next, lengths, gamma, n + 1)


def undiscounted_values(original):
    return lambda r, v, v_next, lengths, gamma, lambda_: original(
        r, v, v_next / gamma, lengths, gamma, lambda_
    )


def lambda_alone(original):
    return lambda r, v, v_next, lengths, gamma, lambda_: original(
        r, v, v_next, lengths, gamma, lambda_ / gamma
    )


MODULES = {
    "returns": pgcore_estimators.parts.returns,
    "gae": pgcore_estimators.parts.gae,
    "n_step": pgcore_estimators.parts.n_step,
    "terms": pgcore_estimators.terms,
    "composition": pgcore.parts.composition,
}


@pytest.mark.parametrize(
    ("name", "module", "function", "plant"),
    [
        ("reward-to-go", "returns", "returns", late),
        (
            "reward-to-go",
            "returns",
            "returns",
            lambda original: lambda r, lengths, gamma, *_: original(r, lengths, 1.0),
        ),
        (
            "full return",
            "returns",
            "episode_returns",
            lambda original: lambda g, n: g[n.cumsum() - 1],
        ),
        ("leave one out", "returns", "leave_one_out_mean", own_mean),
        ("optimal", "returns", "optimal_baseline", own_included),
        ("normalised", "composition", "normalise", other_ddof),
        ("normalised", "composition", "normalise", epsilon_inside),
        ("gae normalised", "composition", "normalise", other_ddof),
        ("ppo", "composition", "normalise", other_ddof),
        ("gae", "gae", "gae", late),
        ("gae", "gae", "gae", undiscounted_values),
        ("gae", "gae", "gae", lambda_alone),
        ("ppo kl", "gae", "gae", lambda_alone),
        ("trpo", "gae", "gae", lambda_alone),
        ("trpo", "composition", "normalise", other_ddof),
        ("td", "n_step", "n_step_returns", one_step_more),
        ("n-step", "n_step", "n_step_returns", one_step_more),
        ("td", "terms", "next_values", never_bootstrapped),
        ("gae", "terms", "next_values", always_bootstrapped),
        ("ppo kl", "terms", "next_values", shifted_values),
    ],
)
def test_a_wrong_signal_is_not_the_loops(monkeypatch, name, module, function, plant):
    monkeypatch.setattr(MODULES[module], function, plant(getattr(MODULES[module], function)))
    assert gap(name) > 1e-9


@pytest.mark.parametrize(
    ("name", "module", "function"),
    [("reward-to-go", "returns", "returns"), ("gae", "gae", "gae")],
)
def test_the_next_episodes_rewards_are_not_the_loops(monkeypatch, name, module, function):
    planted = joined(getattr(MODULES[module], function))
    monkeypatch.setattr(MODULES[module], function, planted)
    assert gap(name) > 1e-3


def test_padding_that_is_averaged_in_is_not_the_loops(monkeypatch):
    original = pgcore.parts.composition.normalise
    monkeypatch.setattr(
        pgcore.parts.composition, "normalise", lambda x, _, *, ddof: original(x, ddof=ddof)
    )
    assert gap("normalised", padding=9) > 1e-3


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("padding", [0, 9])
def test_a_minibatchs_advantages_are_its_own_steps_standardised(ddof, padding):
    policy, batch = made(padding=padding)
    estimator = pg.estimator("ppo", gamma=0.9, gae_lambda=0.8, normalise="minibatch", ddof=ddof)
    plain = pg.estimator("ppo", gamma=0.9, gae_lambda=0.8, normalise="none")
    signals, unnormalised = (pg.signals(policy, each, batch) for each in (estimator, plain))
    index = np.array([3, 17, 4, 0, *range(23, 23 + padding), 9])
    found = Surrogate(policy.spec, estimator, batch.steps(index), signals.steps(index)).values[
        "advantage"
    ]
    real = index < 23
    exact = standardised(list(unnormalised["advantage"][index][real]), ddof)
    np.testing.assert_allclose(found[real], exact, rtol=1e-13, atol=1e-15)
    assert not found[~real].any()


def test_without_the_behaviours_log_probs_the_old_policy_is_the_current_one():
    policy, batch = made()
    fields = {
        name: getattr(batch, name)
        for name in ("observations", "actions", "rewards", "episode_lengths", "terminated")
    }
    bare = pg.Batch(
        **fields, final_observations=batch.final_observations, action_mask=batch.action_mask
    )
    signals = pg.signals(policy, ESTIMATORS["ppo kl"], bare)
    evaluated = policy.evaluate(bare, ("log_prob", "distribution"))
    np.testing.assert_array_equal(signals["old_log_prob"], evaluated["log_prob"])
    np.testing.assert_array_equal(signals["reference"], evaluated["distribution"])
    metrics = pg.gradient(policy, ESTIMATORS["ppo kl"], bare).metrics
    assert metrics["approx_kl"] == 0.0
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-15)


# Recorded values


def one_step(**fields):
    """Return a critic with V = 1, and one step of an earlier time, when V was 0, whose return is 5."""
    policy = pg.policy(pg.PolicySpec(pg.Table(1), pg.Categorical(2), "separate"), dtype="float64")
    policy.load(
        {
            name: np.full(shape, float("critic" in name))
            for name, shape in policy.spec.parameter_shapes.items()
        }
    )
    step = {
        "observations": [0],
        "actions": [0],
        "rewards": [5.0],
        "episode_lengths": [1],
        "terminated": [True],
    }
    return policy, pg.Batch(**step, **fields)


CLIPPED = pg.estimator("ppo", value_clip=0.2, value_coefficient=0.5, normalise="none")


def critic_slope(policy, batch):
    found = pg.gradient(policy, CLIPPED, batch).numpy()
    return sum(float(value.sum()) for name, value in found.items() if "critic" in name)


def test_a_value_is_clipped_around_the_recorded_one():
    assert critic_slope(*one_step(values=[0.0])) == 0.0
    assert critic_slope(*one_step(values=[0.9])) == -2.0


def test_a_clip_around_unrecorded_values_is_refused():
    policy, batch = one_step()
    with pytest.raises(
        BatchError, match=r"Batch\.values: .*critic 'clipped' clips.*got none; record"
    ):
        pg.signals(policy, CLIPPED, batch)
    # As the message says: around themselves values are not clipped, in the next epoch they are.
    batch = batch.record(policy.evaluate(batch, ("value",))["value"])
    assert critic_slope(policy, batch) == -2.0
    policy.load({name: value + 1.0 for name, value in policy.parameters().items()})
    assert critic_slope(policy, batch) == 0.0


READERS = {
    **{
        name: pg.estimator(name) for name in ("actor_critic", "a2c", "ppo", "trpo", "awr", "vtrace")
    },
    "reinforce": pg.estimator("reinforce", baseline="value"),
}


@pytest.mark.parametrize("estimator", READERS.values(), ids=READERS)
def test_recorded_values_stand_for_the_critics(estimator):
    policy, batch = made()
    said = policy.evaluate(batch, ("value", "final_value"))
    evaluated = pg.signals(policy, estimator, recorded(batch, values=None))
    both = {"values": said["value"], "final_values": said["final_value"]}
    again = pg.signals(policy, estimator, recorded(batch, **both, final_observations=None))
    other = pg.signals(
        policy, estimator, recorded(batch, **both | {"final_values": said["final_value"] + 1})
    )
    for name, value in evaluated.values.items():
        np.testing.assert_array_equal(again[name], value)
    assert not np.array_equal(other["return_"], evaluated["return_"])
