"""The suite's own test, continued: the wrong forms of the notes and of the field, each planted in the estimator or head that it is about."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from mutations_page import listed, section, times

import pgcore as pg
from pgcore.interfaces.recorded import critic_values
from pgcore.returns import by_group, centre, episode_rewards, returns
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.cases.cases import NETWORKS, twinned
from pgcore_check.planted import first_disagreement
from pgcore_check.proofs import variants
from pgcore_estimators.parts.clip import Clip
from pgcore_estimators.terms import log_bounds, old_log_probs
from pgcore_numpy.discrete_kernels import BernoulliKernel, CategoricalKernel, MultiCategoricalKernel
from pgcore_numpy.gaussian_kernels import GaussianKernel, SquashedGaussianKernel
from pgcore_numpy.gradient import NumpyGradient
from pgcore_numpy.networks import DenseNetwork

ESTIMATORS = variants("estimators")
HEADS = variants("heads")

HEADING = "## The notes' and the field's wrong forms"

# Given a monkeypatch and the right estimator, plants the bug and returns the estimator to run.
Plant = Callable[[pytest.MonkeyPatch, Any], Any]


@dataclass(frozen=True)
class WrongForm:
    """One planted bug.

    Attributes:
        name: What is wrong.
        variant: Label of the estimator.
        stage: Where it must be found.
        plant: See `Plant`.
        head: Label of the head.
        values: What the critic values.
        backend: On which it is run.
    """

    name: str
    variant: str
    stage: str
    plant: Plant
    head: str = "categorical"
    values: str = "state"
    backend: str = "numpy"

    def run(
        self, monkeypatch: pytest.MonkeyPatch, *, planted: bool = True
    ) -> tuple[str | None, float]:
        """Return what `first_disagreement` does."""
        right = ESTIMATORS[self.variant]
        estimator = self.plant(monkeypatch, right) if planted else right
        spec = pg.PolicySpec(NETWORKS["tanh"], HEADS[self.head], "separate", self.values)
        spec = twinned(spec, right)
        return first_disagreement(estimator, spec, self.backend)


def in_place_of(
    usual: Callable[..., Any], method: Callable[..., Any], right: Any
) -> Callable[..., Any]:
    """Return a method with the usual one's signature, from which an estimator's needs are read."""

    @functools.wraps(usual)
    def wrong(_: Any, *args: Any, **kwargs: Any) -> Any:
        return method(right, *args, **kwargs)

    return wrong


def overriding(**methods: Callable[..., Any]) -> Plant:
    """Return a plant of an estimator some of whose methods are others; each is called with the right estimator first."""

    def plant(_: pytest.MonkeyPatch, right: Any) -> Any:
        cls = type(right)
        own = {
            name: in_place_of(getattr(cls, name), method, right) for name, method in methods.items()
        }
        own.setdefault("cotangents", cls.cotangents)
        return type(cls.__name__, (cls,), own)(
            **{each.name: getattr(right, each.name) for each in dataclasses.fields(right)}
        )

    return plant


def signals(**fields: Any) -> Plant:
    """Return a plant of an estimator that computes its signals with other hyper-parameters than it was given."""
    return overriding(
        signals=lambda right, batch, evaluate: dataclasses.replace(right, **fields).signals(
            batch, evaluate
        )
    )


def advantage(change: Callable[..., Any]) -> Plant:
    """Return a plant of an estimator whose advantages are what `change(found, batch, evaluate)` makes of its signals."""

    def changed(right: Any, batch: Any, evaluate: Any) -> Any:
        found = dict(right.signals(batch, evaluate))
        return found | {"advantage": change(found, batch, evaluate)}

    return overriding(signals=changed)


def terms(formula: Callable[..., Any]) -> Plant:
    """Return a plant of an estimator with another surrogate, and the right cotangents."""
    return overriding(surrogate=formula)


def kernel(owner: Any, method: str, change: Callable[..., Any]) -> Plant:
    """Return a plant that lets a method of the NumPy backend return what `change` makes of its result and arguments."""

    def plant(monkeypatch: pytest.MonkeyPatch, right: Any) -> Any:
        original = getattr(owner, method)
        monkeypatch.setattr(
            owner, method, lambda *args, **kwargs: change(original(*args, **kwargs), *args)
        )
        return right

    return plant


def given(owner: Any, method: str, change: Callable[..., tuple[Any, ...]]) -> Plant:
    """Return a plant that hands a method of the NumPy backend what `change` makes of its arguments."""

    def plant(monkeypatch: pytest.MonkeyPatch, right: Any) -> Any:
        original = getattr(owner, method)
        monkeypatch.setattr(owner, method, lambda self, *args: original(self, *change(*args)))
        return right

    return plant


def score_of_the_other_actions(d: Any, kernel: Any, cotangents: Mapping[str, Any]) -> Any:
    """Take 1 - pi for the actions that were not taken, and -pi for the one that was."""
    wrong = (1.0 - kernel.pi) * cotangents["log_prob"]
    wrong.reshape(-1)[kernel.taken] = (-kernel.pi * cotangents["log_prob"]).take(kernel.taken)
    return wrong / kernel.temperature


def small_temperature(d: Any, kernel: Any, cotangents: Mapping[str, Any]) -> Any:
    """Take (1 - e^z) / (sum e^z) / tau for the score."""
    z = kernel.log_pi - np.where(np.isfinite(kernel.log_pi), kernel.log_pi, 0.0).min(axis=0)
    exponential = np.exp(z)
    return (
        (1.0 - exponential) / exponential.sum(axis=0) * cotangents["log_prob"] / kernel.temperature
    )


def tied(found: dict[str, Any], *_: Any) -> dict[str, Any]:
    """Give the two weights of an input the same derivative."""
    # The stage `kernel` has no layers.
    if "network.0.weight" not in found:
        return found
    weight = found["network.0.weight"]
    return found | {
        "network.0.weight": np.repeat(weight.mean(axis=1, keepdims=True), weight.shape[1], axis=1)
    }


def td_of_values(found: Any, batch: Any, evaluate: Any) -> Any:
    """Take V of the next state where v_{t+1} belongs."""
    v_t, final = critic_values(batch, evaluate)
    following = np.append(v_t[1:], 0.0)
    following[batch.episode_ends] = final
    log_ratio = evaluate("log_prob")["log_prob"] - batch.log_probs
    return np.minimum(np.exp(log_ratio), 1.1) * (batch.rewards + 0.9 * following - v_t)


def ending(terminated: bool) -> Plant:
    """Return a plant of an estimator that takes every episode for one that terminated, or none."""

    def changed(right: Any, batch: pg.Batch, evaluate: Any) -> Any:
        fields = (
            "observations",
            "actions",
            "rewards",
            "episode_lengths",
            "final_observations",
            "action_mask",
        )
        other = pg.Batch(
            **{name: getattr(batch, name) for name in (*fields, "log_probs", "values", "extras")},
            terminated=np.full(batch.num_episodes, terminated),
        )
        return right.signals(other, type(evaluate)(evaluate.policy, other))

    return overriding(signals=changed)


def larger_of_twins(right: Any, batch: Any, evaluate: Any) -> Any:
    """Take the larger of two action values in the actor's loss."""
    values = evaluate("action_values", "twin_action_values").values()
    return {**right.signals(batch, evaluate), "q": np.maximum(*values)}


def exchanged_critics(parameters: Any, d_outputs: Any, d_values: Any) -> Any:
    """Exchange the rows of the first critic and the second."""
    return parameters, d_outputs, np.roll(d_values, len(d_values) // 2, axis=0)


def upwards(right: Any, **named: Any) -> Any:
    return {name: -value for name, value in right.cotangents(**named).items()}


def to_come(right: Any, batch: pg.Batch, evaluate: Any) -> Any:
    """Weigh with what is to come, where the whole return belongs."""
    found = right.signals(batch, evaluate)
    return {**found, "advantage": returns(batch.rewards, batch.episode_lengths, right.gamma)}


def not_normalised(right: Any, batch: pg.Batch, evaluate: Any) -> Any:
    return pg.estimator("pdis", gamma=right.gamma, ratio="trajectory").signals(batch, evaluate)


def other_sign_of_the_entropy(right: Any, xp: Any, *, log_probs: Any, **others: Any) -> Any:
    plain = dataclasses.replace(right, alpha=0.0).surrogate(xp, log_probs=log_probs, **others)
    return plain - right.alpha * xp.sum(
        xp.exp(log_probs) * xp.where(log_probs > -math.inf, log_probs, 0.0), 1
    )


def unlimited_weight(right: Any, xp: Any, **named: Any) -> Any:
    return dataclasses.replace(right, max_weight=1e9).surrogate(xp, **named)


def without_ratio(right: Any, xp: Any, *, log_prob: Any, advantage: Any, **_: Any) -> Any:
    return -log_prob * advantage


def mean_of_rewards(found: Any, batch: pg.Batch, _: Any) -> Any:
    return found["advantage"] - found["advantage"].mean() + batch.rewards.mean()


def less_the_groups_mean(_: Any, batch: pg.Batch, evaluate: Any) -> Any:
    gap = old_log_probs(batch, evaluate) - batch.extras["reference_log_probs"]
    penalised = batch.rewards - vars(ESTIMATORS["rloo"])["kl_coefficient"] * gap
    return by_group(centre, episode_rewards(batch, penalised), batch)[batch.episode_of_step]


def into_the_network(parameters: Any, d_outputs: Any, d_values: Any) -> tuple[Any, ...]:
    return parameters, -d_outputs, d_values


def moving_target(right: Any, xp: Any, *, action_value: Any, target: Any) -> Any:
    """Let the gradient go on into the target, whose value stays."""
    return right.surrogate(
        xp, action_value=action_value, target=target + 0.9 * (action_value - action_value.detach())
    )


def differentiated_weight(
    right: Any, xp: Any, *, log_prob: Any, old_log_prob: Any, advantage: Any
) -> Any:
    """Differentiate the clipped ratio itself, so that what is clipped has no gradient."""
    bounds = log_bounds(right.clip_low, right.clip_high)
    return -advantage * xp.exp(xp.clip(log_prob - old_log_prob, *bounds))


def first_kl_estimate(right: Any, xp: Any, **named: Any) -> Any:
    """Penalise log pi - log pi_ref itself."""
    gap = named.pop("reference_log_prob") - named["log_prob"]
    return (
        dataclasses.replace(right, kl_coefficient=0.0).surrogate(xp, **named)
        - right.kl_coefficient * gap
    )


def summed_ratio(
    right: Any, xp: Any, *, log_prob: Any, old_log_prob: Any, advantage: Any, episode: Any
) -> Any:
    """Clip the trajectory's ratio, not its geometric mean over the steps."""
    log_ratio = xp.episode_sum(log_prob - old_log_prob, episode)
    return -Clip(right.clip_low, right.clip_high).gain(xp, log_ratio, log_prob, advantage)


def every_step_alike(
    right: Any, xp: Any, *, log_prob: Any, old_log_prob: Any, advantage: Any, episode: Any
) -> Any:
    """Take a step's ratio for the trajectory's."""
    return -advantage * xp.exp(log_prob - old_log_prob)


def unweighed(right: Any, xp: Any, *, log_probs: Any, q: Any, **others: Any) -> Any:
    """Weigh the values by log pi."""
    plain = right.surrogate(xp, log_probs=log_probs, q=q, **others)
    possible = log_probs > -math.inf
    return (
        plain + xp.sum(xp.exp(log_probs) * q, 1) - xp.sum(xp.where(possible, log_probs, 0.0) * q, 1)
    )


def with_added_constant(
    found: dict[str, Any], _: Any, __: Any, actions: Any, *___: Any
) -> dict[str, Any]:
    """Take log(1 - tanh(u)^2 + 1e-6) for the logarithm of the slope."""
    right, wrong = np.log(1 - np.tanh(actions) ** 2), np.log(1 - np.tanh(actions) ** 2 + 1e-6)
    return found | {"log_prob": found["log_prob"] + (right - wrong).sum(axis=1)}


def first_choice_alone(
    found: dict[str, Any], kernel: Any, _: Any, actions: Any, *__: Any
) -> dict[str, Any]:
    return found | {"log_prob": kernel.kernels[0].log_pi[actions[:, 0], np.arange(len(actions))]}


def mean_of_switches(found: dict[str, Any], kernel: Any, *_: Any) -> dict[str, Any]:
    return {name: value / kernel.binary_actions for name, value in found.items()}


def negative(found: Any, *_: Any) -> Any:
    return -found


WRONG = (
    WrongForm(
        "A2: cases of the softmax score exchanged",
        "reinforce",
        "kernel",
        kernel(CategoricalKernel, "backward", score_of_the_other_actions),
    ),
    WrongForm(
        "A3: the score simplified for small temperatures",
        "reinforce",
        "kernel",
        kernel(CategoricalKernel, "backward", small_temperature),
    ),
    WrongForm(
        "A5: sign of the Gaussian score",
        "reinforce",
        "kernel",
        kernel(GaussianKernel, "backward", negative),
        "per-state",
    ),
    WrongForm(
        "A6: sign of the network's derivative",
        "reinforce",
        "gradient",
        given(DenseNetwork, "backward", into_the_network),
    ),
    WrongForm(
        "B1: ascends the squared error",
        "q-learning",
        "cotangents",
        overriding(cotangents=upwards),
        "epsilon greedy",
    ),
    WrongForm(
        "B1: bootstraps from a terminal state",
        "q-learning",
        "signals",
        ending(terminated=False),
        "epsilon greedy",
    ),
    WrongForm(
        "B1: target differentiated",
        "q-learning",
        "gradient",
        terms(moving_target),
        "epsilon greedy",
        backend="torch",
    ),
    WrongForm(
        "B7: own episode in the baseline", "leave one out", "signals", signals(baseline="mean")
    ),
    WrongForm(
        "B9: rewards weighed by later ratios",
        "per-decision is",
        "signals",
        signals(ratio="trajectory"),
    ),
    WrongForm(
        "B10: a step's ratio for the trajectory's",
        "trajectory is",
        "cotangents",
        terms(every_step_alike),
    ),
    WrongForm(
        "B10: what is to come for the return",
        "averaged ratio",
        "signals",
        overriding(signals=to_come),
    ),
    WrongForm(
        "D1: sign of the entropy",
        "soft actor",
        "cotangents",
        terms(other_sign_of_the_entropy),
        values="action",
    ),
    WrongForm(
        "soft_actor: the larger value of twin critics",
        "twin soft actor",
        "signals",
        overriding(signals=larger_of_twins),
        values="action",
    ),
    WrongForm(
        "soft_actor: the first temperature for the learned one",
        "twin soft actor",
        "signals",
        signals(temperature=None),
        values="action",
    ),
    WrongForm(
        "twin critics: each has the other's derivative",
        "twin soft actor",
        "gradient",
        given(DenseNetwork, "backward", exchanged_critics),
        values="action",
    ),
    WrongForm(
        "D2: two weights that are one parameter",
        "reinforce",
        "gradient",
        kernel(NumpyGradient, "numpy", tied),
    ),
    WrongForm(
        "E2: the step's own reward for what followed",
        "reinforce",
        "signals",
        advantage(lambda _, batch, __: batch.rewards),
    ),
    WrongForm(
        "expected: values weighed by log pi",
        "expected",
        "cotangents",
        terms(unweighed),
        values="action",
    ),
    WrongForm("vtrace: ratios not limited", "vtrace", "signals", signals(rho_bar=1e9)),
    WrongForm(
        "vtrace: V for the corrected target in the advantage",
        "vtrace",
        "signals",
        advantage(td_of_values),
    ),
    WrongForm(
        "a2c: no bootstrap where an episode is truncated", "a2c", "signals", ending(terminated=True)
    ),
    WrongForm(
        "awr: weights not limited", "awr", "cotangents", overriding(surrogate=unlimited_weight)
    ),
    WrongForm(
        "wis: ratios not normalised", "weighted is", "signals", overriding(signals=not_normalised)
    ),
    WrongForm("trpo: ratio left out", "trpo", "cotangents", terms(without_ratio)),
    WrongForm(
        "rloo: own reward among the others", "rloo", "signals", advantage(less_the_groups_mean)
    ),
    WrongForm("grpo: another ddof", "grpo", "signals", signals(ddof=0)),
    WrongForm(
        "grpo: the first estimate of the divergence", "grpo", "cotangents", terms(first_kl_estimate)
    ),
    WrongForm(
        "dr_grpo: divided by the deviation after all",
        "dr grpo",
        "signals",
        signals(scale="group"),
    ),
    WrongForm(
        "gspo: the trajectory's ratio for its geometric mean",
        "gspo",
        "cotangents",
        terms(summed_ratio),
    ),
    WrongForm(
        "cispo: the clipped weight differentiated",
        "cispo",
        "cotangents",
        terms(differentiated_weight),
    ),
    WrongForm(
        "reinforce_pp: mean of the rewards not subtracted",
        "reinforce++",
        "signals",
        advantage(mean_of_rewards),
    ),
    WrongForm(
        "squashed Gaussian: log(1 - tanh^2 + 1e-6)",
        "reinforce",
        "quantities",
        kernel(SquashedGaussianKernel, "quantities", with_added_constant),
        "squashed",
    ),
    WrongForm(
        "several choices: the first alone counts",
        "ppo",
        "quantities",
        kernel(MultiCategoricalKernel, "quantities", first_choice_alone),
        "multi",
    ),
    WrongForm(
        "binary actions: mean for sum",
        "ppo",
        "quantities",
        kernel(BernoulliKernel, "quantities", mean_of_switches),
        "bernoulli",
    ),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.name)
def test_a_wrong_form_is_found_at_its_stage(wrong, monkeypatch):
    if wrong.backend != "numpy":
        pytest.importorskip(f"pgcore_{wrong.backend}.backend")
    stage, ratio = wrong.run(monkeypatch, planted=False)
    assert stage is None, f"without the bug: {ratio}"
    stage, ratio = wrong.run(monkeypatch)
    assert stage == wrong.stage
    assert ratio > 10 * FACTOR


def section_of_bugs() -> str:
    """Return the page's section, from a run."""
    rows: list[list[str]] = []
    for wrong in WRONG:
        with pytest.MonkeyPatch.context() as monkeypatch:
            stage, ratio = wrong.run(monkeypatch)
        rows.append([wrong.name, str(stage), times(ratio)])
    text = [
        "Letters name the rows of [the notes' formulas](formulas.md). B14's root of g^T F g is a step and no estimator:",
        "`tests/plugins/optimizers/test_trust_regions.py::test_the_notes_formula_overshoots` shows that it leaves the region.",
    ]
    return section(HEADING, text, ("wrong form", "found at", "times the limit"), rows)


def test_the_page_lists_these_forms_at_these_stages():
    assert listed(HEADING, 2) == [(wrong.name, wrong.stage) for wrong in WRONG]
