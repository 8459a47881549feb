"""The built-in estimators are within the bounds of their plain forms, and planted bugs are far outside."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import numpy as np
import pytest

import pgcore as pg
from pgcore.errors import BatchError, EstimatorError
from pgcore.interfaces.estimator import QUANTITIES, Reduction
from pgcore.interfaces.score_estimator import ScoreEstimator
from pgcore.interfaces.surrogate import Surrogate
from pgcore.xp.numpy import host
from pgcore_check.bounds.agreement import FACTOR, allowance, largest
from pgcore_check.bounds.running_error import bounded_in
from pgcore_check.cases.cases import NETWORKS, fits, make_case, twinned
from pgcore_check.proofs import hold_to_parent, variants
from pgcore_check.reference import reference
from pgcore_check.reference.estimator_form import estimator_form
from pgcore_check.reference.lifted import Lifted, rounded
from pgcore_estimators.actor_critic import ActorCritic
from pgcore_estimators.group_relative import GRPO
from pgcore_estimators.importance_sampling import PerDecisionIS
from pgcore_estimators.ppo import PPO
from pgcore_estimators.reinforce import BASELINES, Reinforce
from pgcore_estimators.trpo import TRPO

FORMS = {label: estimator_form(variant) for label, variant in variants("estimators").items()}
# The estimators whose terms are written out too, and those of which signals alone are.
ESTIMATORS = {
    label: form.fields for label, form in FORMS.items() if form and not form.signals_alone
}
COMPOSED = {label: form.fields for label, form in FORMS.items() if form and form.signals_alone}
HEADS = variants("heads")

MORE = {
    **{f"baseline {name}": Reinforce(0.9, baseline=name, baseline_value=0.3) for name in BASELINES},
    **{
        f"full {name}": Reinforce(0.9, baseline=name, reward_to_go=False, discount_state=True)
        for name in BASELINES
    },
    **{
        f"discounted {name}": Reinforce(0.8, baseline=name, discount_state=True)
        for name in BASELINES
    },
    "undiscounted": Reinforce(1.0, reduction=Reduction.STEP),
    "rewards alone": Reinforce(0.0, discount_state=True),
    "normalised": Reinforce(0.9, normalise="batch", discount_state=True),
    "normalised, ddof 0": Reinforce(0.9, normalise="batch", ddof=0, baseline="leave_one_out"),
    "n-step beyond the end": ActorCritic(
        "n_step", n_steps=100, gamma=0.9, reduction=Reduction.EPISODE_STEP
    ),
    "n-step of 1": ActorCritic("n_step", n_steps=1, gamma=0.9, normalise="batch", ddof=0),
    "td, normalised": ActorCritic(
        "td", gamma=0.7, normalise="batch", reduction=Reduction.TRAJECTORY
    ),
    "gae of 0": ActorCritic(gamma=0.9, gae_lambda=0.0),
    "gae of 1": ActorCritic(
        gamma=1.0, gae_lambda=1.0, value_coefficient=0.25, entropy_coefficient=-0.1
    ),
    "ppo batch, ddof 0": PPO(normalise="batch", ddof=0, clip=1.5, value_clip=0.05),
    "ppo minibatch, ddof 0": PPO(normalise="minibatch", ddof=0, clip=0.05, entropy_coefficient=0.1),
    "ppo kl, minibatch": PPO("kl", kl_coefficient=1.3, value_clip=0.3, gamma=0.9, gae_lambda=0.7),
    "trpo, ddof 0": TRPO(gamma=0.9, gae_lambda=0.7, ddof=0, value_coefficient=1.5),
}
ALL = ESTIMATORS | MORE


def lifted_policy(policy, batch, lift):
    """Return the reference as a `LiftedEvaluate`."""
    return Lifted(policy.spec, policy.parameters(), batch, lift)


def ratio(found, compute, dtype, rows: Any = slice(None)):
    """Return the largest |found - exact| / (u e) over some rows; `compute` takes a lift."""
    dtype = np.dtype(dtype)
    exact, bound = compute(reference.extended), compute(bounded_in(dtype))
    return largest(
        np.asarray(found)[rows], np.asarray(exact[rows]), allowance(bound[rows], dtype), dtype
    )[0]


def form_of(estimator) -> Any:
    found = estimator_form(estimator)
    assert found is not None
    return found


def real(batch):
    return slice(None) if batch.step_weights is None else np.flatnonzero(batch.step_weights)


def signal_ratios(estimator, policy, batch):
    """Return the ratio of every signal, of the weights, and of the gradient where the estimator combines scores."""
    signals = pg.signals(policy, estimator, batch)
    form = form_of(estimator)
    rows = real(batch)

    def compute(name, lift):
        return rounded(form.signals(batch, lifted_policy(policy, batch, lift), lift)[name])

    computed = form.signals(
        batch, lifted_policy(policy, batch, reference.extended), reference.extended
    )
    own = {
        name: value for name, value in signals.values.items() if name != "episode"
    }  # the numbers of episodes are exact
    assert computed.keys() == own.keys()
    ratios = {}
    for name, found in own.items():
        if name == "reference":
            ratios[name] = reference_ratio(
                found, lambda lift: compute("reference", lift), policy.dtype
            )
        else:
            ratios[name] = ratio(
                found, lambda lift, name=name: compute(name, lift), policy.dtype, rows
            )
    ratios["weights"] = ratio(
        signals.weights, lambda lift: rounded(form.weights(batch, lift)), policy.dtype
    )
    if isinstance(estimator, ScoreEstimator):
        gradient = pg.gradient(policy, estimator, batch, signals=signals).numpy()

        def combined(lift):
            lifted = {name: lift(value) for name, value in own.items()}
            return rounded(
                form.combine(
                    batch, lifted_policy(policy, batch, lift), lifted, signals.weights, lift
                )
            )

        flat = np.concatenate([value.reshape(-1) for value in gradient.values()])
        ratios["combine"] = ratio(flat, combined, policy.dtype)
    return ratios


@pytest.mark.parametrize("label", COMPOSED)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_signals_of_a_composition_are_within_the_bounds_of_their_form(label, dtype):
    estimator = COMPOSED[label]
    specs = [
        pg.PolicySpec(NETWORKS["linear"], head, "separate", values)
        for head in HEADS.values()
        for values in (("state", "action") if head.enumerable else ("state",))
        if not head.action_values
    ]
    spec = next(spec for spec in specs if fits(estimator, spec))
    extras = estimator.used_extras
    policy, batch = make_case(spec, "numpy", dtype, seed=3, padding=4, extras=extras)
    assert max(signal_ratios(estimator, policy, batch).values()) <= FACTOR


def reference_ratio(found, compute, dtype):
    exact = compute(reference.extended)
    if ((exact == -np.inf) != (found == -np.inf)).any():
        return float("inf")
    return ratio(found[exact > -np.inf], lambda lift: compute(lift)[exact > -np.inf], dtype)


def inputs(estimator, policy, batch):
    """Return what the surrogate is given once the policy has moved: quantities in its dtype, and signals, by name."""
    surrogate = Surrogate(policy.spec, estimator, batch, pg.signals(policy, estimator, batch))
    asked = tuple(name for name in estimator.keywords if name in QUANTITIES)
    rng = np.random.default_rng(44)
    named = {}
    for name, value in policy.evaluate(batch, asked).items():
        named[name] = (value + 0.4 * rng.standard_normal(value.shape)).astype(policy.dtype)
    return named | {
        name: surrogate.values[name] for name in estimator.keywords if name not in named
    }


def row_ratios(estimator, named):
    """Return the ratios of the terms and of every cotangent, for the same inputs."""
    form, dtype = form_of(estimator), next(iter(named.values())).dtype

    def lifted(lift):
        return {name: value if name == "episode" else lift(value) for name, value in named.items()}

    ratios = {
        "terms": ratio(
            estimator.surrogate(host, **named), lambda lift: form.terms(lifted(lift)), dtype
        )
    }
    cotangents = estimator.cotangents(**named)
    assert (
        cotangents.keys()
        == form.cotangents(lifted(reference.extended)).keys()
        == set(estimator.quantities)
    )
    for name, found in cotangents.items():
        ratios[name] = ratio(
            found, lambda lift, name=name: form.cotangents(lifted(lift))[name], dtype
        )
    return ratios


def finalise_ratios(estimator, values, padding):
    """Return the ratio of every signal that `finalise` gives."""
    form = form_of(estimator)

    def compute(name, lift):
        return form.finalise({name: lift(values[name]) for name in compared}, padding)[name]

    found = estimator.finalise(values, padding)
    compared = {
        name: value for name, value in found.items() if name not in ("reference", "episode")
    }
    return {
        f"final {name}": ratio(value, lambda lift, name=name: compute(name, lift), value.dtype)
        for name, value in compared.items()
    }


def all_ratios(estimator, policy, batch):
    """Return every ratio that an estimator has."""
    signals = pg.signals(policy, estimator, batch)
    padding = signals.weights if signals.padded else None
    return (
        signal_ratios(estimator, policy, batch)
        | finalise_ratios(estimator, signals.values, padding)
        | {
            f"row {name}": value
            for name, value in row_ratios(estimator, inputs(estimator, policy, batch)).items()
        }
    )


def changed(batch, **fields):
    """Return the batch with other fields."""
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
    return pg.Batch(**({name: getattr(batch, name) for name in names} | fields))


def made(dtype="float64", padding=0, head="hot", network="tanh", seed=40, values="state"):
    spec = pg.PolicySpec(NETWORKS[network], HEADS[head], "separate", values)
    return make_case(spec, "numpy", dtype, seed, padding=padding)


def made_for(name, dtype="float64", padding=0, head="hot", network="tanh"):
    """Return a policy and a batch that an estimator fits: on another head, or with a critic of actions, where it must be."""
    own = "hot" if ALL[name].claims.discrete_only else head
    values = "action" if "action_value" in ALL[name].quantities else "state"
    spec = pg.PolicySpec(NETWORKS[network], HEADS[own], "separate", values)
    return make_case(twinned(spec, ALL[name]), "numpy", dtype, 40, padding=padding)


every = pytest.mark.parametrize("name", ALL)
both = pytest.mark.parametrize("dtype", ["float64", "float32"])


@every
@both
@pytest.mark.parametrize(
    ("padding", "head", "network"), [(0, "hot", "tanh"), (5, "per-state", "table")]
)
def test_an_estimator_is_within_the_bounds_of_its_form(name, dtype, padding, head, network):
    policy, batch = made_for(name, dtype, padding, head, network)
    ratios = all_ratios(ALL[name], policy, batch)
    assert max(ratios.values()) <= FACTOR, ratios


@every
@pytest.mark.parametrize("terminated", [True, False])
def test_whole_and_cut_episodes_of_one_step_and_more_agree(name, terminated):
    policy, batch = made_for(name)
    final = None if terminated else batch.final_observations
    mixed = changed(
        batch, terminated=np.full(batch.num_episodes, terminated), final_observations=final
    )
    for part in (mixed, mixed.steps([2, 9, 10, 5]), mixed.episodes([4, 2])):
        ratios = all_ratios(ALL[name], policy, part)
        assert max(ratios.values()) <= FACTOR, ratios


@every
def test_one_step_agrees(name):
    needs_two = name == "rloo" or getattr(ALL[name], "baseline", "") in (
        "leave_one_out",
        "optimal",
        "optimal_per_component",
    )
    policy, batch = made_for(name)
    one = batch.steps([3])
    if needs_two:
        with pytest.raises(BatchError, match="at least 2 episodes to leave one out"):
            pg.gradient(policy, ALL[name], one)
    else:
        ratios = all_ratios(ALL[name], policy, one)
        assert max(ratios.values()) <= FACTOR, ratios


@pytest.mark.parametrize("name", ["ppo", "ppo kl", "ppo value clip"])
def test_a_batch_that_says_nothing_of_its_policy_comes_from_the_current_one(name):
    policy, batch = made()
    ratios = signal_ratios(ALL[name], policy, changed(batch, log_probs=None, extras={}))
    assert max(ratios.values()) <= FACTOR, ratios


@every
def test_padding_changes_no_real_step(name):
    policy, batch = made_for(name)
    padded = batch.pad(30)
    form = form_of(ALL[name])
    plain, beside = (
        form.signals(each, lifted_policy(policy, each, reference.extended), reference.extended)
        for each in (batch, padded)
    )
    for signal, value in plain.items():
        np.testing.assert_array_equal(beside[signal][: batch.num_steps], value)
    weights = form.weights(padded, reference.extended)
    np.testing.assert_array_equal(
        weights[: batch.num_steps], form.weights(batch, reference.extended)
    )
    assert not weights[batch.num_steps :].any()


@both
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize(
    "x", [[3.0], [0.1] * 5, [1.0, 2.0], [1e4, 1e4 + 1, 1e4 + 3], [1e-12, 3e-12, -1e-12]]
)
def test_normalising_agrees(x, ddof, dtype):
    values = {"advantage": np.array(x, dtype)}
    among = {"advantage": np.array([7.0, *x, -100.0], dtype)}
    padding = np.array([0.0] + [0.2] * len(x) + [0.0], dtype)
    for given in ((values, None), (among, padding)):
        ratios = finalise_ratios(PPO(ddof=ddof), *given)
        assert max(ratios.values()) <= FACTOR, ratios
    alone = form_of(PPO(ddof=ddof)).finalise(among, padding)["advantage"]
    assert alone[0] == alone[-1] == 0.0
    assert len(x) > 1 or alone[1] == 3.0
    assert x != [0.1] * 5 or not alone.any()


def at_the_clip(clip):
    """Return inputs with ratios at the bounds, next to them and far away, and advantages of both signs."""
    bounds = [math.log1p(clip)] + ([math.log1p(-clip)] if clip < 1 else [])
    near = [np.nextafter(bound, side) for bound in bounds for side in (-10, 10)]
    log_ratios = [*bounds, *near, 0.0, 1000.0, -1000.0]
    rows = np.array(
        [(r, a) for r in log_ratios for a in (0.0, 1.0, -1.0, 2.5, -0.3) if r < 999 or a >= 0]
    )
    log_ratio, advantage = np.ascontiguousarray(rows.T)
    zero = np.zeros(len(rows))
    return {
        "log_prob": log_ratio,
        "value": zero,
        "old_log_prob": zero,
        "advantage": advantage,
        "return_": zero,
    }


def at_the_value_clip(dtype):
    """Return inputs with values in reach of the old ones, at it and beyond, the target at every distance from both."""
    grid = np.arange(-16, 17, 2).astype(dtype) / 8
    value, old, target = (
        each.reshape(-1) for each in np.meshgrid(grid, grid, np.arange(-16, 17).astype(dtype) / 8)
    )
    zero = np.zeros_like(value)
    named = {
        "log_prob": zero,
        "value": value,
        "old_log_prob": zero,
        "advantage": zero,
        "return_": target,
    }
    return named | {"old_value": old}


@pytest.mark.parametrize("clip", [0.2, 0.05, 1.0, 3.0])
def test_ties_and_far_ratios_agree(clip):
    named = at_the_clip(clip)
    ratios = row_ratios(PPO(clip=clip), named)
    assert max(ratios.values()) <= FACTOR, ratios
    slope = form_of(PPO(clip=clip)).cotangents(named)["log_prob"]
    log_ratio, advantage, bound = named["log_prob"], named["advantage"], math.log1p(clip)
    tie = log_ratio == bound
    np.testing.assert_allclose(slope[tie], -advantage[tie] * (1 + clip), rtol=1e-15)
    assert not slope[(log_ratio > bound) & (advantage > 0)].any()


@both
def test_clipped_values_agree_on_ties_too(dtype):
    estimator = PPO(value_clip=0.5, value_coefficient=0.7)
    named = at_the_value_clip(dtype)
    ratios = row_ratios(estimator, named)
    assert max(ratios.values()) <= FACTOR, ratios
    # V = 0.75 is as far from R = 0.625 as from 0.5, where it would be held.
    tie = (named["value"] == 0.75) & (named["old_value"] == 0.0) & (named["return_"] == 0.625)
    assert form_of(estimator).cotangents(named)["value"][tie] == pytest.approx([0.7 * 0.125])


@pytest.mark.parametrize("name", ["reinforce", "value baseline", "n-step", "gae", "ppo", "ppo kl"])
@both
def test_long_episodes_agree(name, dtype):
    """Long enough for the solver that the signals then use."""
    policy, batch = make_case(
        pg.PolicySpec(NETWORKS["linear"], HEADS["hot"], "separate"), "numpy", dtype, 45, steps=700
    )
    ratios = all_ratios(ALL[name], policy, batch)
    assert max(ratios.values()) <= FACTOR, ratios


def test_what_has_no_form():
    class Other(Reinforce):
        """Its parent under another name."""

        name = "other"

    class Newer(Other):
        """What its parent's signals call is not what the reference implementation stands for."""

        def _discount(self, batch):
            return 0.5 * super()._discount(batch)  # pyright: ignore[reportOperatorIssue]

    class Impostor(pg.Estimator):
        """No kin of the estimator that it is called after."""

        name = "reinforce"
        claims = pg.Claims(  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]
            unbiased=False, off_policy="none", needs_critic=False, discrete_only=False
        )

        def signals(self, batch, evaluate):
            return {}

        def surrogate(self, xp, *, log_prob):
            return log_prob

    assert type(estimator_form(Other())) is type(form_of(Reinforce()))
    assert estimator_form(Newer()) is None
    assert estimator_form(Impostor()) is None
    for estimator in (Reinforce(), ActorCritic(), PPO()):
        policy, batch = made()
        evaluate: Any = lifted_policy(policy, batch, reference.extended)
        with pytest.raises(
            EstimatorError,
            match=r"combine: expected an estimator that weighs scores, got .*differentiate",
        ):
            form_of(estimator).combine(
                batch, evaluate, {}, np.ones(batch.num_steps), reference.extended
            )


def planted(estimator, **methods):
    """Return the estimator with methods replaced; each is given the real one's result, or takes its place."""
    cls = type(estimator)
    for name, method in methods.items():
        methods[name] = functools.wraps(getattr(cls, name))(method)
    methods.setdefault(
        "cotangents", cls.cotangents
    )  # a bug in another method leaves the right ones
    wrong: Any = dataclasses.dataclass(frozen=True)(type("Planted", (cls,), methods))
    hold_to_parent(wrong)
    return wrong(
        **{field.name: getattr(estimator, field.name) for field in dataclasses.fields(estimator)}
    )


def after(estimator, method, change):
    """Return the estimator with what `change` makes of a method's result and its arguments."""
    cls = type(estimator)
    original = getattr(cls, method)

    def replacement(self, *args, **named):
        return change(original(self, *args, **named), *args, **named)

    return planted(estimator, **{method: replacement})


def instead(estimator, method, **fields):
    """Return the estimator with a method that has other hyper-parameters."""
    other = dataclasses.replace(estimator, **fields)
    return planted(
        estimator, **{method: lambda self, *args, **named: getattr(other, method)(*args, **named)}
    )


def seeing(estimator, see):
    """Return the estimator whose signals are computed from what `see` makes of batch and evaluation."""
    return planted(
        estimator, signals=lambda self, batch, evaluate: estimator.signals(*see(batch, evaluate))
    )


class Evaluated:
    """An evaluation with one quantity changed."""

    def __init__(self, evaluate, name, change) -> None:
        self.evaluate, self.name, self.change = evaluate, name, change
        self.scores = evaluate.scores

    def __call__(self, *names):
        found = self.evaluate(*names)
        return {
            name: self.change(value) if name == self.name else value
            for name, value in found.items()
        }


def shifted(batch, evaluate):
    """The rewards one step late: G_t without r_t."""
    inside = np.setdiff1d(np.arange(batch.num_steps), batch.episode_ends)
    late = np.zeros(batch.num_steps)
    late[inside] = batch.rewards[inside + 1]
    return changed(batch, rewards=late), evaluate


def as_one_episode(batch, evaluate):
    """Returns that go on into the next episode."""
    last = batch.final_observations[-1:]
    one = {"episode_lengths": [batch.num_steps], "terminated": [False], "step_weights": None}
    return changed(batch, **one, final_observations=last), evaluate


def without_bootstrap(batch, evaluate):
    return batch, Evaluated(evaluate, "final_value", lambda value: 0 * value)


def with_bootstrap_after_terminal(batch, evaluate):
    return batch, Evaluated(
        evaluate, "final_value", lambda value: np.where(batch.terminated, 0.5, value)
    )


def with_padding_counted(batch, evaluate):
    return changed(batch, step_weights=None), evaluate


def advantage(change):
    return lambda found, *args: found | {"advantage": change(found["advantage"], *args)}


def leaking(a, batch, evaluate):
    """The recursion that an episode's end does not cut."""
    ends = batch.episode_ends[:-1]
    leaked = a.copy()
    leaked[ends] += 0.72 * a[ends + 1]
    return leaked


def inside_the_root(signals, weights):
    """(A - mean) / sqrt(var + 1e-8)."""
    real = weights > 0
    own = signals["advantage"][real] - signals["advantage"][real].mean()
    found = np.zeros_like(signals["advantage"])
    found[real] = own / np.sqrt((own * own).sum() / (len(own) - 1) + 1e-8)
    return dict(signals) | {"advantage": found}


def terms_of(estimator, change):
    return after(estimator, "surrogate", lambda found, xp, **named: change(found, **named))


def slope_of(estimator, name, change):
    return after(
        estimator,
        "cotangents",
        lambda found, **named: dict(found) | {name: change(found[name], **named)},
    )


def clipped_where(clipped):
    """Return PPO's slopes where another rule says what is clipped."""

    def slopes(_, log_prob, old_log_prob, advantage, **__):
        log_ratio = log_prob - old_log_prob
        return -advantage * np.exp(np.where(clipped(log_ratio, advantage), -np.inf, log_ratio))

    return slopes


def both_sides(log_ratio, _):
    """Clipped whichever way the advantage pushes."""
    return (log_ratio > math.log1p(0.2)) | (log_ratio < math.log1p(-0.2))


def smaller_error(self, xp, value, old_value, return_):
    held = old_value + xp.clip(value - old_value, -self.value_clip, self.value_clip) - return_
    return xp.where(xp.abs(value - return_) <= xp.abs(held), value - return_, held)


def own_included(self, batch, evaluate, signals, weights):
    real = batch.episode_weights > 0
    g, u = evaluate.scores(self._discount(batch))[real], evaluate.scores(signals["advantage"])[real]
    squares = (g * g).sum(axis=0)
    b = (u * g).sum(axis=0) / np.where(squares > 0, squares, 1.0)
    return -(weights[batch.episode_starts][real] @ (u - b * g))


def scaled(factor):
    return lambda found, *args, **named: found * factor


GAE, CLIP, HELD, KL = (
    ESTIMATORS["gae"],
    ESTIMATORS["ppo"],
    ESTIMATORS["ppo value clip"],
    ESTIMATORS["ppo kl"],
)
PLAIN, VALUE = ESTIMATORS["reinforce"], ESTIMATORS["value baseline"]
LEAVE_ONE_OUT, OPTIMAL = ESTIMATORS["leave one out"], ESTIMATORS["optimal baseline"]
NORMALISED, N_STEP = MORE["normalised"], ESTIMATORS["n-step"]
PER_COMPONENT = MORE["discounted optimal_per_component"]
RAW = ActorCritic(gamma=0.9, gae_lambda=0.8)

GSPO_, CISPO_, GRPO_, DR_GRPO = (ESTIMATORS[name] for name in ("gspo", "cispo", "grpo", "dr grpo"))
VTRACE, PER_DECISION, WHOLE = (
    ESTIMATORS[name] for name in ("vtrace", "per-decision is", "trajectory is")
)
RLOO_, WEIGHTED = ESTIMATORS["rloo"], ESTIMATORS["weighted is"]


def one_group(batch, evaluate):
    return changed(
        batch, extras=dict(batch.extras) | {"group": np.zeros(batch.num_steps, int)}
    ), evaluate


def without_penalty(batch, evaluate):
    return changed(
        batch, extras=dict(batch.extras) | {"reference_log_probs": batch.log_probs}
    ), evaluate


PLANTED = {
    "return one step late": seeing(PLAIN, shifted),
    "return into the next episode": seeing(PLAIN, as_one_episode),
    "mean of rewards for their sum": after(
        PLAIN,
        "signals",
        advantage(lambda a, batch, _: a / batch.episode_lengths[batch.episode_of_step]),
    ),
    "return discounted once too often": after(PLAIN, "signals", advantage(lambda a, *_: 0.9 * a)),
    "full return for reward-to-go": instead(PLAIN, "signals", reward_to_go=False),
    "reward-to-go for full return": instead(
        ESTIMATORS["full return"], "signals", reward_to_go=True
    ),
    "sign of the advantage": after(PLAIN, "signals", advantage(lambda a, *_: -a)),
    "constant forgotten": instead(ESTIMATORS["full return"], "signals", baseline="none"),
    "own mean for leave-one-out": instead(LEAVE_ONE_OUT, "signals", baseline="mean"),
    "leave-one-out for own mean": instead(
        ESTIMATORS["mean baseline"], "signals", baseline="leave_one_out"
    ),
    "no gamma^t": instead(LEAVE_ONE_OUT, "signals", discount_state=False),
    "optimal for leave-one-out": instead(OPTIMAL, "signals", baseline="leave_one_out"),
    "own episode in the optimal baseline": planted(PER_COMPONENT, combine=own_included),
    "combine's sign": after(PER_COMPONENT, "combine", scaled(-1)),
    "critic's target from normalised advantages": after(
        GAE,
        "signals",
        lambda found, batch, evaluate: (
            found | {"return_": found["advantage"] + evaluate("value")["value"]}
        ),
    ),
    "no bootstrap, reinforce": seeing(VALUE, without_bootstrap),
    "no bootstrap, n-step": seeing(N_STEP, without_bootstrap),
    "no bootstrap, ppo": seeing(CLIP, without_bootstrap),
    "bootstrap after the end": seeing(GAE, with_bootstrap_after_terminal),
    "one step too many": instead(N_STEP, "signals", n_steps=4),
    "td for n-step": instead(N_STEP, "signals", advantage="td"),
    "gae leaks": after(RAW, "signals", advantage(leaking)),
    "lambda forgotten": instead(GAE, "signals", gae_lambda=1.0),
    "ddof, reinforce": instead(NORMALISED, "signals", ddof=0),
    "ddof, actor-critic": instead(GAE, "signals", ddof=0),
    "ddof, ppo": instead(HELD, "signals", ddof=0),
    "ddof, minibatch": instead(CLIP, "finalise", ddof=0),
    "padding counted": seeing(GAE, with_padding_counted),
    "padding counted, minibatch": planted(
        CLIP, finalise=lambda self, signals, padding: CLIP.finalise(signals, None)
    ),
    "epsilon inside the root": planted(
        GAE,
        signals=lambda self, batch, evaluate: inside_the_root(
            RAW.signals(batch, evaluate), batch.step_weights
        ),
    ),
    "epsilon inside the root, minibatch": planted(
        CLIP, finalise=lambda self, *args: inside_the_root(*args)
    ),
    "not normalised": instead(GAE, "signals", normalise="none"),
    "normalised twice": planted(HELD, finalise=lambda self, *args: CLIP.finalise(*args)),
    "old value forgotten": after(
        HELD, "signals", lambda found, *_: found | {"old_value": found["return_"]}
    ),
    "reference is the current policy": after(
        KL,
        "signals",
        lambda found, batch, evaluate: (
            found | {"reference": evaluate("distribution")["distribution"]}
        ),
    ),
    "sign of the terms": terms_of(PLAIN, scaled(-1)),
    "mean for sum of terms": terms_of(PLAIN, scaled(1 / 28)),
    "value loss without its half": terms_of(
        RAW, lambda found, value, return_, **_: found + 0.25 * (value - return_) ** 2
    ),
    "sign of the entropy": terms_of(N_STEP, lambda found, entropy, **_: found + 0.02 * entropy),
    "no penalty": instead(KL, "surrogate", kl_coefficient=0.0),
    "clip of another width": instead(CLIP, "surrogate", clip=0.21),
    "clip on both sides": slope_of(CLIP, "log_prob", clipped_where(both_sides)),
    "no clip": slope_of(CLIP, "log_prob", clipped_where(lambda log_ratio, _: log_ratio > np.inf)),
    "smaller value loss": planted(HELD, _worse_error=smaller_error),
    "value loss not clipped": planted(
        HELD, _worse_error=lambda self, xp, value, old_value, return_: value - return_
    ),
    "sign of the score": slope_of(GAE, "log_prob", scaled(-1)),
    "clipped gradient goes on": slope_of(
        CLIP,
        "log_prob",
        lambda _, log_prob, old_log_prob, advantage, **__: (
            -advantage * np.exp(log_prob - old_log_prob)
        ),
    ),
    "gradient without its ratio": slope_of(KL, "log_prob", lambda _, advantage, **__: -advantage),
    "value gradient doubled": slope_of(VALUE, "value", scaled(2)),
    "held value's gradient goes on": slope_of(
        HELD, "value", lambda _, value, return_, **__: 0.5 * (value - return_)
    ),
    "sign of the entropy's gradient": slope_of(N_STEP, "entropy", scaled(-1)),
    "ratios of TD errors not limited": instead(VTRACE, "signals", rho_bar=1e9),
    "ratios of traces not limited": instead(VTRACE, "signals", c_bar=1e9),
    "ratios of later steps": instead(PER_DECISION, "signals", ratio="trajectory"),
    "ratios not normalised": after(
        WEIGHTED,
        "signals",
        lambda _, batch, evaluate: PerDecisionIS(0.9, ratio="trajectory").signals(batch, evaluate),
    ),
    "ratio of the own step alone": slope_of(
        WHOLE,
        "log_prob",
        lambda _, log_prob, old_log_prob, return_, **__: -return_ * np.exp(log_prob - old_log_prob),
    ),
    "weights not limited": instead(ESTIMATORS["awr"], "signals", max_weight=1e9),
    "all episodes one group": seeing(GRPO_, one_group),
    "others of another group": seeing(RLOO_, one_group),
    "no penalty in the rewards": seeing(RLOO_, without_penalty),
    "own reward among the others": after(
        RLOO_, "signals", lambda found, *_: found | {"advantage": 2 / 3 * found["advantage"]}
    ),
    "deviation of the group with another ddof": instead(GSPO_, "signals", ddof=0),
    # `planted` changes the function that it is given.
    "divided by the deviation after all": planted(DR_GRPO, relative=GRPO.relative),
    "mean of the clipped steps": slope_of(
        GSPO_,
        "log_prob",
        lambda _, log_prob, old_log_prob, advantage, **__: (
            -advantage * np.exp(log_prob - old_log_prob)
        ),
    ),
    "length of the episode forgotten": planted(
        GSPO_,
        cotangents=lambda self, episode, **named: {
            "log_prob": host.episode_sum(np.ones_like(named["log_prob"]), episode)
            * GSPO_.cotangents(episode=episode, **named)["log_prob"]
        },
    ),
    "clipped steps lose their gradient": slope_of(
        CISPO_,
        "log_prob",
        lambda found, log_prob, old_log_prob, **__: np.where(
            log_prob - old_log_prob > math.log(1.2), 0.0, found
        ),
    ),
    "constant ratio differentiated": terms_of(
        CISPO_,
        lambda _, log_prob, old_log_prob, advantage: (
            -advantage * np.exp(log_prob - old_log_prob) * log_prob
        ),
    ),
    "penalty's gradient halved": slope_of(KL, "kl", scaled(0.5)),
}


# 1e-8 is below float32's roundoff.
SEEN = [
    (name, dtype)
    for name in PLANTED
    for dtype in ("float64", "float32")
    if dtype == "float64" or "epsilon" not in name
]


@pytest.mark.parametrize(("name", "dtype"), SEEN)
def test_planted_bugs_are_far_outside(name, dtype):
    policy, batch = made(dtype, padding=5, seed=43)
    ratios = all_ratios(PLANTED[name], policy, batch)
    assert max(ratios.values()) > FACTOR * (1e3 if dtype == "float64" else 10), ratios


def test_planted_ties_are_far_outside():
    def includes_the_bound(log_ratio, advantage):
        return np.where(advantage >= 0, log_ratio >= math.log1p(0.2), log_ratio <= math.log1p(-0.2))

    ratios = row_ratios(
        slope_of(PPO(clip=0.2), "log_prob", clipped_where(includes_the_bound)), at_the_clip(0.2)
    )
    assert ratios["log_prob"] > 1e9
    assert ratios["terms"] <= FACTOR

    def held_on_a_tie(found, value, old_value, return_, **_):
        held = old_value + np.clip(value - old_value, -0.5, 0.5)
        return np.where(
            np.abs(value - return_) <= np.abs(held - return_),
            np.where(value == held, found, 0.0),
            found,
        )

    estimator = PPO(value_clip=0.5)
    ratios = row_ratios(slope_of(estimator, "value", held_on_a_tie), at_the_value_clip("float64"))
    assert ratios["value"] > 1e9


REDUCTIONS = (Reduction.STEP, Reduction.EPISODE_STEP, Reduction.TRAJECTORY)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("wrong", REDUCTIONS)
def test_another_reduction_is_far_outside(reduction, wrong, monkeypatch):
    policy, batch = made(padding=5)
    weights = wrong.weights(batch)
    monkeypatch.setattr(type(reduction), "weights", lambda self, batch, totals: weights)
    found = signal_ratios(Reinforce(reduction=reduction), policy, batch)["weights"]
    assert found <= FACTOR if wrong == reduction else found > 1e9
