"""The claims of an estimator, each confirmed or refuted by running it on a finite process."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pgcore.api import gradient as run_gradient
from pgcore.api import policy as make_policy
from pgcore.api import signals as run_signals
from pgcore.data.batch import Batch
from pgcore.data.spec import PolicySpec, Table
from pgcore.errors import PgcoreError
from pgcore.heads import DiagonalGaussian
from pgcore.interfaces.estimator import Claims, Estimator
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore_exact.expectation.estimates import Estimates, sample
from pgcore_exact.expectation.moments import NOTHING, Moments, moments, root_mean_square
from pgcore_exact.expectation.needs import audit_policy
from pgcore_exact.off_policy.behaviours import batch_of, distance, population_bias
from pgcore_exact.process.dynamics import gradient, gradient_terms
from pgcore_exact.process.episodes import all_episodes
from pgcore_exact.process.mdp import MDP, limit
from pgcore_exact.process.tabulated import Tabulated, tabulated

__all__ = ["Subject", "Verdict", "probe_batch", "reclaimed", "try_once", "verdicts"]

# A relative bias above the first is a bias; one below the second is rounding; nothing has been seen between them.
BIASED, UNBIASED = 1e-6, 1e-9


@dataclass(frozen=True, slots=True)
class Verdict:
    """What running an estimator says of one claim.

    Attributes:
        claim: The field of `Claims`.
        stated: What the estimator claims.
        verdict: "confirmed", "refuted", "open" where this process cannot tell, or "reported" where nothing is judged.
        figure: What decides.
    """

    claim: str
    stated: bool | str
    verdict: str
    figure: str


class Subject:
    """An estimator, its expectation, and another policy: what its claims are judged by.

    Attributes:
        estimator: What is judged.
        mdp: The process.
        policy: The current policy.
        behaviour: The other policy.
        moments: Of the estimator on the current policy's episodes.
        batch: N, episodes in a batch.
        table: The current policy's probabilities and scores.
        own: [D] bool. The policy's parameters, without the critic's; the following are of these.
        discount_state: Whether `exact` weighs time t by gamma^t: of the two, the one that the expectation is nearer to.
        exact: The exact gradient.
        mean: The expected gradient.
        spread: The root of the gradient's mean square.
        rounding: A vector that is no longer than this is 0.
    """

    def __init__(
        self,
        estimator: Estimator,
        mdp: MDP,
        policy: Policy,
        behaviour: Policy,
        expected: Moments,
        batch: int,
    ) -> None:
        """Keep all, and take the exact gradient."""
        self.estimator, self.mdp, self.policy, self.behaviour = estimator, mdp, policy, behaviour
        self.moments, self.batch = expected, batch
        self.table: Tabulated = tabulated(policy, mdp)
        self.own = self.table.own
        both = {
            flag: gradient(mdp, self.table, discount_state=flag)[self.own] for flag in (True, False)
        }
        mean, terms = expected.mean[self.own], gradient_terms(mdp, self.table)[self.own]
        self.discount_state = min(both, key=lambda flag: float(np.linalg.norm(mean - both[flag])))
        self.spread = root_mean_square(mean, expected.covariance[np.ix_(self.own, self.own)])
        self.rounding = NOTHING * max(self.spread, float(np.linalg.norm(terms)))
        self.exact, self.mean = self.beyond(both[self.discount_state]), self.beyond(mean)

    def beyond(self, vector: Array) -> Array:
        """Return a vector, or 0 where it is no more than what rounding leaves of terms that cancel."""
        return vector * (float(np.linalg.norm(vector)) > self.rounding)

    @cached_property
    def moments_away(self) -> Moments:
        """The moments over the other policy's episodes."""
        return moments(
            self.mdp, self.policy, self.estimator, batch=self.batch, behaviour=self.behaviour
        )

    @cached_property
    def mean_away(self) -> Array:
        """The expectation over the other policy's episodes."""
        return self.beyond(self.moments_away.seen[self.own])

    def relative(self, mean: Array) -> float:
        """Return the relative bias of an expected gradient; infinite where the exact one is 0, as with one action, and this is not."""
        bias, size = (
            float(np.linalg.norm(self.beyond(mean - self.exact))),
            float(np.linalg.norm(self.exact)),
        )
        return bias / size if size > 0 else math.inf if bias > 0 else 0.0


def verdicts(
    subject: Subject, runs: Callable[[PolicySpec], None], specs: Mapping[str, PolicySpec]
) -> tuple[Verdict, ...]:
    """Return a verdict on each claim.

    Args:
        subject: The estimator, and its expectation.
        runs: Computes one gradient on a spec, or raises what stops it.
        specs: What the estimator may be tried on.
    """
    estimator = subject.estimator
    return (
        unbiased_verdict(subject),
        off_policy_verdict(subject),
        critic_verdict(estimator, runs, specs),
        discrete_verdict(estimator, subject.batch),
        whole_episodes_verdict(subject),
    )


def unbiased_verdict(subject: Subject) -> Verdict:
    """Judge by the relative bias, current policy and whole episodes; where that shows none, a bias by another policy's episodes."""
    relative, claims = subject.relative(subject.mean), subject.estimator.claims
    stated, figure = claims.unbiased, f"relative bias {relative:.2g}"
    if subject.spread == 0 and not subject.exact.any():
        return Verdict("unbiased", stated, "open", "all gradients are 0, and so is the exact one")
    if stated:
        return Verdict(
            "unbiased", stated, "confirmed" if relative <= UNBIASED else "refuted", figure
        )
    if relative <= BIASED and claims.off_policy != "none":
        relative = subject.relative(subject.mean_away)
        figure = f"{figure}, {relative:.2g} with another policy's episodes"
    return Verdict("unbiased", stated, "confirmed" if relative > BIASED else "open", figure)


def off_policy_verdict(subject: Subject) -> Verdict:
    """Judge by the expectation over another policy's episodes."""
    stated = subject.estimator.claims.off_policy
    judge = {"exact": judge_exact, "limited": report_limited, "none": judge_none}[stated]
    return Verdict("off_policy", stated, *judge(subject))


def judge_exact(subject: Subject) -> tuple[str, str]:
    """Return a verdict on an estimator that is unbiased with another policy's episodes, or consistent where a bias is claimed."""
    if not (subject.exact.any() or subject.mean.any() or subject.mean_away.any()):
        return "open", "the expected gradient is 0, whoever acts"
    relative = subject.relative(subject.mean_away)
    figure = f"relative bias {relative:.2g} with another policy's episodes"
    if relative <= UNBIASED or subject.estimator.claims.unbiased:
        return "confirmed" if relative <= UNBIASED else "refuted", figure
    # A bias that vanishes with the size of the batch is allowed to one that does not claim to have none.
    limiting = population_bias(subject.estimator, subject.mdp, subject.policy)
    verdict = "open" if math.isnan(limiting) else "confirmed" if limiting <= UNBIASED else "refuted"
    return verdict, f"{figure}, {limiting:.2g} on a whole population of them"


def report_limited(subject: Subject) -> tuple[str, str]:
    """Return no verdict, and both biases; where the policy's gradient is always 0, how far the critic's moves."""
    if not (subject.mean.any() or subject.mean_away.any()):
        moved = distance(subject.moments.seen, subject.moments_away.seen)
        return (
            "reported",
            f"the policy's gradient is 0; another policy's episodes move the critic's by {moved:.2g}",
        )
    biases = subject.relative(subject.mean), subject.relative(subject.mean_away)
    return (
        "reported",
        f"relative bias {biases[0]:.2g} on its own episodes, {biases[1]:.2g} on another policy's",
    )


def judge_none(subject: Subject) -> tuple[str, str]:
    """Return a verdict on an estimator that needs the current policy's episodes, by how far others move its expectation."""
    moved = distance(subject.mean, subject.mean_away)
    if math.isnan(moved):
        return "open", "the expected gradient is 0, whoever acts"
    # Over single steps who acts changes no states, and what is biased anyhow may be moved elsewhere.
    needless = moved <= UNBIASED and subject.relative(subject.mean_away) <= UNBIASED
    needless = needless and limit("audit", subject.mdp) > 1
    verdict = "confirmed" if moved > BIASED else "refuted" if needless else "open"
    return verdict, f"another policy's episodes move the mean by {moved:.2g}"


def critic_verdict(
    estimator: Estimator, runs: Callable[[PolicySpec], None], specs: Mapping[str, PolicySpec]
) -> Verdict:
    """Judge by running without a critic."""
    stated = estimator.claims.needs_critic
    errors: list[str] = []
    for spec in specs.values():
        if spec.critic != "none":
            continue
        try:
            runs(spec)
        except PgcoreError as error:
            errors.append(essence(error))
        else:
            return Verdict(
                "needs_critic",
                stated,
                "refuted" if stated else "confirmed",
                "runs without a critic",
            )
    return Verdict(
        "needs_critic",
        stated,
        "confirmed" if stated else "refuted",
        f"without a critic: {errors[0]}",
    )


def discrete_verdict(estimator: Estimator, batch: int) -> Verdict:
    """Judge by running on real actions, whatever the claim says."""
    stated = estimator.claims.discrete_only
    critic = "separate" if estimator.claims.needs_critic else "none"
    policy = make_policy(
        PolicySpec(Table(3), DiagonalGaussian(1), critic), backend="numpy", dtype="float64"
    )
    episodes = max(batch, 2)
    steps = 2 * episodes
    rng = np.random.Generator(np.random.Philox(3))
    fields: dict[str, Any] = {
        "observations": np.arange(steps) % 3,
        "actions": rng.standard_normal((steps, 1)),
        "rewards": rng.standard_normal(steps),
        "episode_lengths": np.full(episodes, 2),
        "terminated": np.ones(episodes, np.bool_),
        "log_probs": rng.standard_normal(steps),
        "values": np.zeros(steps),
    }
    described = {
        "reference": policy.distribution(fields["observations"]),
        "reference_log_probs": rng.standard_normal(steps),
        "group": np.zeros(steps, np.intp),
    }
    try:
        run_gradient(
            policy, reclaimed(estimator, discrete_only=False), Batch(**fields, extras=described)
        )
    except PgcoreError as error:
        figure = f"on real actions: {essence(error)}"
        return Verdict("discrete_only", stated, "confirmed" if stated else "refuted", figure)
    return Verdict(
        "discrete_only", stated, "refuted" if stated else "confirmed", "runs on real actions"
    )


def whole_episodes_verdict(subject: Subject) -> Verdict:
    """Judge by whether it matters that an episode was cut, and whether a step's signals look past it."""
    stated = subject.estimator.claims.whole_episodes
    moved = flag_moves(subject)
    if math.isnan(moved) and (stated or limit("audit", subject.mdp) == 1):
        return Verdict(
            "whole_episodes", stated, "open", "no episode can be cut, or all gradients are 0"
        )
    if stated:
        figure = f"taking cut episodes for ended ones moves the gradient by {moved:.2g}"
        return Verdict(
            "whole_episodes", stated, "confirmed" if moved <= UNBIASED else "refuted", figure
        )
    if moved > BIASED:
        return Verdict(
            "whole_episodes",
            stated,
            "confirmed",
            f"bootstraps: taking cut episodes for ended ones moves the gradient by {moved:.2g}",
        )
    local = prefix_moves(subject)
    figure = f"what follows a step moves its signals by {local:.2g}"
    return Verdict(
        "whole_episodes", stated, "confirmed" if local <= UNBIASED else "refuted", figure
    )


def flag_moves(subject: Subject) -> float:
    """Return how far gradients move, relative to the largest, where episodes that were cut are said to have ended.

    NaN where no episode can be cut, or all gradients are 0, and nothing can be told.
    """
    mdp, table = subject.mdp, subject.table
    episodes = all_episodes(mdp, table.probabilities, cut=max(limit("audit", mdp) - 1, 1))
    ended = dataclasses.replace(episodes, terminated=np.ones(len(episodes), np.bool_))
    batches = sample(len(episodes), max(subject.batch, 2))
    bootstrapped, stopped = (
        Estimates(mdp, table, subject.estimator, listed, table.probabilities).gradients(batches)
        for listed in (episodes, ended)
    )
    largest = max(float(np.abs(gradients).max()) for gradients in (bootstrapped, stopped))
    if largest == 0 or episodes.terminated.all():
        return math.nan
    return float(np.abs(bootstrapped - stopped).max()) / largest


def prefix_moves(subject: Subject) -> float:
    """Return how far the signals of first steps move where everything after them is left out."""
    batch = probe_batch(subject.mdp, 2)
    whole = run_signals(subject.policy, subject.estimator, batch)
    first = batch.steps(batch.episode_starts)
    alone = run_signals(subject.policy, subject.estimator, first)
    moves = [
        float(
            np.abs(value[batch.episode_starts] - alone.values[name]).max()
            / max(float(np.abs(value).max()), 1e-300)
        )
        for name, value in whole.values.items()
        if value.dtype.kind == "f" and np.isfinite(value).all()
    ]
    return max(moves, default=0.0)


def probe_batch(mdp: MDP, size: int) -> Batch:
    """Return a batch of a few whole episodes, the longest, chosen by a policy that prefers nothing."""
    uniform = np.full((mdp.states, mdp.actions), 1.0 / mdp.actions)
    episodes = all_episodes(mdp, uniform)
    longest = np.argsort(-episodes.lengths, kind="stable")
    # Far apart, so that they differ.
    last = int((episodes.lengths == episodes.lengths.max()).sum()) - 1
    members = longest[np.linspace(0.0, last, size).astype(np.intp)]
    return batch_of(mdp, episodes, members, uniform, values=np.zeros(mdp.states))


def try_once(estimator: Estimator, batch: Batch, spec: PolicySpec) -> None:
    """Compute one gradient, or raise the estimator's error."""
    run_gradient(audit_policy(spec, 0), estimator, batch)


def reclaimed(estimator: Estimator, **changes: Any) -> Estimator:
    """Return the estimator with other claims, whatever its own say."""
    cls = type(estimator)
    claims: Claims = dataclasses.replace(estimator.claims, **changes)
    double = copy.copy(estimator)
    object.__setattr__(
        double, "__class__", type(cls.__name__, (cls,), {"claims": property(lambda _: claims)})
    )
    return double


def essence(error: Exception) -> str:
    """Return what an error's message says was expected and what was there, without where and advice."""
    text = str(error).partition(";")[0]
    return text[max(text.find("expected "), 0) :]
