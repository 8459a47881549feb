"""The suite's own test, continued: bugs of definitions, which have no second formula to depart from.

Heads break an identity of their distribution. Signals and surrogates leave float64, and surrogates look beyond a
step's own row. Bugs of the deriver are in cotangents that nobody wrote.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import sympy.core.cache
from mutations_page import listed, planted, section
from strangers import Laplace

import pgcore as pg
from pgcore.heads.diagonal_gaussian import HALF_LOG_2PI
from pgcore_check.bounds.agreement import FACTOR
from pgcore_check.bounds.forward_mode import Dual, constant
from pgcore_check.cases.cases import NETWORKS
from pgcore_check.head_outcomes import identity_outcome
from pgcore_check.planted import first_disagreement
from pgcore_check.proofs import variants
from pgcore_derive import functions

HEADING = "## Definitions"
SPEC = pg.PolicySpec(NETWORKS["linear"], variants("heads")["categorical"], "separate")
REFUSED = "refused"


@dataclass(frozen=True)
class DefinitionBug:
    """One planted bug.

    Attributes:
        name: What is wrong.
        planted: In which formula of which definition.
        stage: Where it must be found; of an identity, its name.
        right: A head or an estimator without the bug.
        wrong: The same with it.
        backend: On which an estimator is run.
        plant: Given a monkeypatch, plants a bug that is in neither.
    """

    name: str
    planted: str
    stage: str
    right: Any
    wrong: Any
    backend: str = "numpy"
    plant: Callable[[pytest.MonkeyPatch], None] = field(default=lambda monkeypatch: None)

    def run(
        self, monkeypatch: pytest.MonkeyPatch, *, planted: bool = True
    ) -> tuple[str | None, float]:
        """Return the first stage that disagrees, or None, and the ratio there or the largest one."""
        if planted:
            self.plant(monkeypatch)
        subject = self.wrong if planted else self.right
        if isinstance(subject, pg.Head):
            outcome = identity_outcome("planted", subject)
            return outcome.stage and outcome.where.partition(" at ")[0], outcome.ratio
        # Derivatives of equal expressions would be those of the run before.
        sympy.core.cache.clear_cache()
        try:
            return first_disagreement(subject, SPEC, self.backend)
        except (pg.PgcoreError, TypeError):
            return REFUSED, math.inf
        finally:
            sympy.core.cache.clear_cache()


# Heads.


def subclass(head: Any, **methods: Any) -> Any:
    """Return a head of a subclass with other methods, and the Fisher information of its parent."""
    cls: Any = type(head)
    methods.setdefault("fisher", cls.fisher)
    fields = {each.name: getattr(head, each.name) for each in dataclasses.fields(head)}
    return type(cls.__name__, (cls,), methods)(**fields)


GAUSSIAN, SQUASHED, LAPLACE = pg.DiagonalGaussian(1), pg.SquashedGaussian(1), Laplace(1)
CATEGORICAL, SEVERAL, BINARY = pg.Categorical(3, 0.7), pg.MultiCategorical((2, 3)), pg.Bernoulli(2)


def log_density(self, xp, distribution, actions):
    return pg.DiagonalGaussian.log_prob(self, xp, distribution, actions)


def without_constant(self, xp, distribution, actions):
    return log_density(self, xp, distribution, actions) + self.n * HALF_LOG_2PI


def over_variance(self, xp, distribution, actions):
    mean, log_std = distribution[:, : self.n], distribution[:, self.n :]
    z = (actions - mean) / xp.exp(2.0 * log_std)
    return -xp.sum(0.5 * z * z + log_std, 1) - self.n * HALF_LOG_2PI


def plus_log_slope(self, xp, distribution, actions):
    right = pg.SquashedGaussian.log_prob(self, xp, distribution, actions)
    return 2.0 * log_density(self, xp, distribution, actions) - right


def moved_action(self, xp, distribution, actions):
    mean = distribution[:, : self.n]
    return log_density(self, xp, distribution, actions + mean - held(mean))


def held(x):
    return constant(x.value) if isinstance(x, Dual) else x


def held_constant(self, xp, distribution, actions):
    log_scale = distribution[:, self.n :]
    plain = Laplace.log_prob(self, xp, distribution, actions)
    return plain + xp.sum(log_scale - held(log_scale), 1)


def temperature_behind(self, xp, outputs, parameters, mask):
    logits = outputs if mask is None else xp.where(mask, outputs, -math.inf)
    return xp.log_softmax(logits, 1) / self.temperature


def unlikely_when_masked(self, xp, outputs, parameters, mask):
    logits = outputs if mask is None else xp.where(mask, outputs, -20.0)
    return pg.Categorical.distribution(self, xp, logits, parameters, None)


def mean_over_choices(self, xp, distribution, actions):
    return pg.MultiCategorical.log_prob(self, xp, distribution, actions) / len(self.n)


def always_one(self, xp, distribution, actions):
    return xp.sum(distribution[:, self.n :], 1)


def negative_entropy(self, xp, distribution):
    return -pg.Categorical.entropy(self, xp, distribution)


def entropy_without_half(self, xp, distribution):
    return pg.DiagonalGaussian.entropy(self, xp, distribution) - 0.5 * self.n


def other_direction(self, xp, reference, distribution):
    return pg.Bernoulli.kl(self, xp, distribution, reference)


def kl_of_means(self, xp, reference, distribution):
    z = reference[:, : self.n] - distribution[:, : self.n]
    return xp.sum(0.5 * z * z / xp.exp(2.0 * distribution[:, self.n :]), 1)


def fisher_over_std(self, xp, distribution, tangent):
    std = xp.exp(distribution[:, self.n :])
    return xp.concatenate((tangent[:, : self.n] / std, 2.0 * tangent[:, self.n :]), 1)


def fisher_of_one(self, xp, distribution, tangent):
    std = xp.exp(distribution[:, self.n :])
    return xp.concatenate((tangent[:, : self.n] / std / std, tangent[:, self.n :]), 1)


INTEGRAL, SUM = "integral of the density", "sum of probabilities"

HEADS = (
    ("1/2 log 2 pi left out", INTEGRAL, GAUSSIAN, {"log_prob": without_constant}),
    ("variance for the deviation", INTEGRAL, GAUSSIAN, {"log_prob": over_variance}),
    ("density of the unsquashed action", INTEGRAL, SQUASHED, {"log_prob": log_density}),
    ("sign of the squashing's slope", INTEGRAL, SQUASHED, {"log_prob": plus_log_slope}),
    ("temperature behind the softmax", SUM, CATEGORICAL, {"distribution": temperature_behind}),
    ("mean over choices", SUM, SEVERAL, {"log_prob": mean_over_choices}),
    ("probability of 1 for both", SUM, BINARY, {"log_prob": always_one}),
    (
        "masked logits of -20",
        "probability of masked actions",
        pg.Categorical(3),
        {"distribution": unlikely_when_masked},
    ),
    ("constant not differentiated", "mean score", LAPLACE, {"log_prob": held_constant}),
    ("action moves with the mean", "Fisher information", GAUSSIAN, {"log_prob": moved_action}),
    (
        "Fisher information over the deviation, not over its square",
        "Fisher information",
        GAUSSIAN,
        {"fisher": fisher_over_std},
    ),
    (
        "Fisher information of 1 in log std",
        "Fisher information",
        GAUSSIAN,
        {"fisher": fisher_of_one},
    ),
    ("sign of the entropy", "entropy", CATEGORICAL, {"entropy": negative_entropy}),
    ("entropy without its 1/2", "entropy", GAUSSIAN, {"entropy": entropy_without_half}),
    ("KL in the other direction", "KL", BINARY, {"kl": other_direction}),
    ("KL of the means alone", "KL", GAUSSIAN, {"kl": kl_of_means}),
)

# Estimators that leave float64.


@dataclass(frozen=True)
class Plain(pg.Estimator):
    """The score function, weighed by rewards."""

    name: ClassVar[str] = "plain"

    @property
    def claims(self):
        return pg.Claims(unbiased=False, off_policy="none", needs_critic=True, discrete_only=True)

    def signals(self, batch, evaluate):
        return {"advantage": batch.rewards, "old_log_prob": batch.log_probs}

    def surrogate(self, xp, *, log_prob, advantage):
        return -log_prob * advantage


class Cotangents(Plain):
    """The same with a derivative that its author wrote."""

    surrogate = Plain.surrogate

    def cotangents(self, *, log_prob, advantage):
        return {"log_prob": -advantage / len(advantage)}


SINGLE: Any = np.float32(0.9)


def of(advantage: Callable[[Any], Any]) -> Any:
    """Return an estimator whose advantages a function makes of the rewards."""

    def signals(self, batch, evaluate):
        return {"advantage": advantage(batch.rewards), "old_log_prob": batch.log_probs}

    return type("Planted", (Plain,), {"signals": signals})()


def weighed(rewards):
    weights = np.ones(len(rewards), np.float32)
    weights[::2] = 0.1
    return rewards * weights


def filled(rewards):
    total, following = np.zeros(len(rewards)), 0.0
    for t in reversed(range(len(rewards))):
        following = total[t] = float(rewards[t]) + SINGLE * following
    return total


COARSE = (
    ("float32 constant", lambda rewards: SINGLE * rewards),
    ("float32 constant on a plain array", lambda rewards: np.asarray(rewards) * SINGLE),
    ("cast to float32 and back", lambda rewards: np.float64(np.asarray(rewards, np.float32))),
    ("float32 weights", weighed),
    ("float32 discount in a loop", filled),
)

# Surrogates, which compute [B] terms.


def surrogate(terms: Callable[..., Any], base: type[Plain] = Plain) -> Any:
    """Return an estimator of other terms; cotangents of a base stay."""
    own = {"surrogate": terms}
    if base is not Plain:
        own["cotangents"] = base.cotangents
    return type("Planted", (base,), own)()


def single_factor(self, xp, *, log_prob, advantage):
    return -SINGLE * log_prob * advantage


def normalised(self, xp, *, log_prob, advantage):
    centred = advantage - xp.sum(advantage, 0) / 23.0
    return -log_prob * centred / xp.sqrt(xp.sum(centred * centred, 0) / 22.0)


def softmax_over_batch(self, xp, *, log_prob, advantage):
    return -log_prob * xp.exp(xp.log_softmax(advantage, 0))


def over_batch(self, xp, *, log_prob, advantage):
    return -log_prob * advantage / len(advantage)


def next_row(self, xp, *, log_prob, value, advantage):
    following = xp.concatenate((value[1:], value[:1]), 0)
    return -log_prob * (advantage + xp.stop_gradient(following))


def stopped_by_kl(self, xp, *, log_prob, old_log_prob, advantage):
    gap = old_log_prob - log_prob
    return xp.where(xp.sum(gap * gap, 0) < 1.5, -log_prob * advantage, 0.0 * advantage)


WHOLE_BATCH = (
    ("advantages normalised in the surrogate", normalised, "torch", "surrogate"),
    ("softmax over the batch", softmax_over_batch, "torch", "surrogate"),
    ("mean over the batch", over_batch, "torch", "surrogate"),
    ("value of the next row", next_row, "torch", "surrogate"),
    ("early stop by the batch's divergence", stopped_by_kl, "torch", "surrogate"),
    ("softmax over the batch", softmax_over_batch, "numpy", REFUSED),
    ("mean over the batch", over_batch, "numpy", REFUSED),
)

# The deriver's rules, each with a surrogate that needs it.


def of_sigmoid(self, xp, *, log_prob, advantage):
    return -advantage * xp.sigmoid(log_prob)


def of_tanh(self, xp, *, log_prob, advantage):
    return -advantage * xp.tanh(log_prob)


def of_distance(self, xp, *, log_prob, old_log_prob):
    return xp.abs(log_prob - old_log_prob)


def of_choice(self, xp, *, log_prob, advantage):
    return xp.where(advantage > 0, -log_prob * advantage, 0.5 * log_prob * log_prob)


def of_constant_weight(self, xp, *, log_prob, old_log_prob, advantage):
    return -xp.stop_gradient(xp.exp(log_prob - old_log_prob)) * advantage * log_prob


def of_episode_mean(self, xp, *, log_prob, old_log_prob, advantage, episode):
    return -advantage * xp.exp(xp.episode_mean(log_prob - old_log_prob, episode))


def of_episode_sum(self, xp, *, log_prob, old_log_prob, advantage, episode):
    return -advantage * xp.tanh(xp.episode_sum(log_prob - old_log_prob, episode))


def of_softmax(self, xp, *, log_probs, advantage):
    tempered = xp.log_softmax(0.5 * xp.maximum(log_probs, -5.0), 1)
    return advantage * xp.sum(tempered * tempered, 1)


def rule(owner: Any, method: str, replacement: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """Return a plant of another rule of the deriver."""
    return lambda monkeypatch: monkeypatch.setattr(owner, method, replacement)


def exchanged(self, s):
    condition, x, y = self.args
    return functions.Choose(condition, y.diff(s), x.diff(s))


RULES = (
    ("factor 1 - y lost", "sigmoid", of_sigmoid, "fdiff", lambda self, _=1: self),
    ("square lost", "tanh", of_tanh, "fdiff", lambda self, _=1: 1 - self),
    ("sign lost", "magnitude", of_distance, "fdiff", lambda self, _=1: functions.sympy.Integer(1)),
    ("branches exchanged", "Choose", of_choice, "_eval_derivative", exchanged),
    (
        "missing stop-gradient",
        "held",
        of_constant_weight,
        "fdiff",
        lambda self, _=1: functions.sympy.Integer(1),
    ),
    (
        "sum for mean",
        "EpisodeMean",
        of_episode_mean,
        "cotangent",
        lambda self, adjoint: functions.EpisodeSum(adjoint, self.args[1]),
    ),
    ("own step alone", "EpisodeSum", of_episode_sum, "cotangent", lambda self, adjoint: adjoint),
    ("softmax left out", "LogSumExp", of_softmax, "cotangent", lambda self, adjoint: adjoint),
)

BUGS = (
    *(
        DefinitionBug(
            name, f"head {head.name}: {next(iter(own))}", stage, head, subclass(head, **own)
        )
        for name, stage, head, own in HEADS
    ),
    *(
        DefinitionBug(
            name, "estimator: signals", "signals", of(lambda rewards: 0.9 * rewards), of(f)
        )
        for name, f in COARSE
    ),
    DefinitionBug(
        "float32 constant", "estimator: surrogate", REFUSED, Plain(), surrogate(single_factor)
    ),
    *(
        DefinitionBug(
            name, f"estimator on {backend}: surrogate", stage, Plain(), surrogate(f), backend
        )
        for name, f, backend, stage in WHOLE_BATCH
    ),
    DefinitionBug(
        "mean over the batch",
        "estimator: surrogate and cotangents",
        "cotangents",
        Plain(),
        surrogate(over_batch, Cotangents),
    ),
    *(
        DefinitionBug(
            name,
            f"deriver: {owner}",
            "cotangents",
            surrogate(terms),
            surrogate(terms),
            plant=rule(getattr(functions, owner), method, replacement),
        )
        for name, owner, terms, method, replacement in RULES
    ),
)


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.name} in {bug.planted}")
def test_a_planted_bug_is_found_at_its_stage(bug, monkeypatch):
    if bug.backend != "numpy":
        pytest.importorskip(f"pgcore_{bug.backend}.backend")
    stage, ratio = bug.run(monkeypatch, planted=False)
    assert stage is None, f"without the bug: {ratio}"
    stage, ratio = bug.run(monkeypatch)
    assert stage == bug.stage
    assert ratio > 10 * FACTOR


def section_of_bugs() -> str:
    """Return the page's section, from a run."""
    text = [
        "These have no second formula to depart from. Heads break an identity of their distribution, which is named. Constants",
        "of less than float64 are refused, and so are cotangents of surrogates that look at the whole batch.",
    ]
    columns = ("bug", "planted in", "found at", "times the limit")
    return section(HEADING, text, columns, planted(BUGS))


def test_the_page_lists_these_bugs_at_these_stages():
    assert listed(HEADING, 3) == [(bug.name, bug.planted, bug.stage) for bug in BUGS]
