"""Verdicts on an estimator's claims: confirmed or refuted by running it on a finite process."""

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
from pgcore_check.extras import example_extras
from pgcore_exact.expectation.estimates import Estimates, sample
from pgcore_exact.expectation.moments import CANCELLATION, Moments, moments, root_mean_square
from pgcore_exact.expectation.needs import audit_policy
from pgcore_exact.off_policy.behaviours import batch_of, distance, population_bias
from pgcore_exact.process.dynamics import gradient, gradient_terms
from pgcore_exact.process.episodes import all_episodes
from pgcore_exact.process.mdp import MDP, finite_horizon
from pgcore_exact.process.tabulated import Tabulated, tabulated

__all__ = ["Subject", "Verdict", "probe_batch", "try_once", "verdicts", "with_claims"]

# Relative biases. An audit's are above the first or, by rounding alone, below the second.
BIASED, UNBIASED = 1e-6, 1e-9

# Keeps a quotient by signals that are all 0 finite.
TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one claim.

    Attributes:
        claim: The field of `Claims`.
        stated: Its value.
        verdict: "confirmed", "refuted", "open" if this process cannot tell, or "reported" if
            nothing is judged.
        figure: The deciding figure, with its meaning.
    """

    claim: str
    stated: bool | str
    verdict: str
    figure: str


class Subject:
    """An estimator, its expectation and a behaviour policy: the basis of all verdicts.

    Attributes:
        estimator: The estimator.
        mdp: The process.
        policy: The current policy.
        behaviour: The behaviour policy.
        moments: Of the estimator on the current policy's episodes.
        batch: N, episodes in a batch.
        table: The current policy's probabilities and scores.
        actor_mask: [D] bool. The policy's parameters, without the critic's.
        discount_state: Whether `exact` weighs time t by gamma^t: the nearer one to the expectation.
        exact: The exact gradient.
        mean: The expected gradient.
        spread: The root of the gradient's mean square.
        rounding: The length up to which a vector is 0.
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
        """Compute the exact gradient; `expected` is `moments`."""
        self.estimator, self.mdp, self.policy, self.behaviour = estimator, mdp, policy, behaviour
        self.moments, self.batch = expected, batch
        self.table: Tabulated = tabulated(policy, mdp)
        self.actor_mask = mask = self.table.actor_mask
        # Both gradients are in use: most estimators leave gamma^t out of the state distribution.
        exacts = {
            flag: gradient(mdp, self.table, discount_state=flag)[mask] for flag in (True, False)
        }
        mean, terms = expected.mean[mask], gradient_terms(mdp, self.table)[mask]
        self.discount_state = min(
            exacts, key=lambda flag: float(np.linalg.norm(mean - exacts[flag]))
        )
        self.spread = root_mean_square(mean, expected.covariance[np.ix_(mask, mask)])
        self.rounding = CANCELLATION * max(self.spread, float(np.linalg.norm(terms)))
        self.exact = self.significant(exacts[self.discount_state])
        self.mean = self.significant(mean)

    def significant(self, vector: Array) -> Array:
        """Return a vector, or 0 where it is no longer than the rounding of terms that cancel."""
        return vector * (float(np.linalg.norm(vector)) > self.rounding)

    @cached_property
    def behaviour_moments(self) -> Moments:
        """The moments over the behaviour policy's episodes."""
        return moments(
            self.mdp, self.policy, self.estimator, batch=self.batch, behaviour=self.behaviour
        )

    @cached_property
    def behaviour_mean(self) -> Array:
        """The expectation over the behaviour policy's episodes."""
        return self.significant(self.behaviour_moments.significant_mean[self.actor_mask])

    def relative(self, mean: Array) -> float:
        """Return the relative bias of an expected gradient.

        Infinite where the exact gradient alone is 0, as with one action.
        """
        bias = float(np.linalg.norm(self.significant(mean - self.exact)))
        size = float(np.linalg.norm(self.exact))
        return bias / size if size > 0 else math.inf if bias > 0 else 0.0


def verdicts(
    subject: Subject, runs: Callable[[PolicySpec], None], specs: Mapping[str, PolicySpec]
) -> tuple[Verdict, ...]:
    """Return a verdict on each claim.

    Args:
        subject: The estimator, and its expectation.
        runs: Computes one gradient on a spec, or raises the estimator's error.
        specs: Policies to try the estimator on, by label.
    """
    estimator = subject.estimator
    return (
        unbiased_verdict(subject),
        off_policy_verdict(subject),
        critic_verdict(estimator, runs, specs),
        discrete_verdict(estimator, subject.batch),
        whole_episodes_verdict(subject),
    )


def decide(claim: str, stated: bool, figure: str, *, holds: bool) -> Verdict:  # noqa: FBT001 - data
    """Return the verdict that a claim is confirmed, or refuted where it does not hold."""
    return Verdict(claim, stated, "confirmed" if holds else "refuted", figure)


def unbiased_verdict(subject: Subject) -> Verdict:
    """Judge by the relative bias over whole episodes of the current policy.

    Where that shows none, a bias over the behaviour policy's episodes confirms a claim of bias.
    """
    relative, claims = subject.relative(subject.mean), subject.estimator.claims
    stated, figure = claims.unbiased, f"relative bias {relative:.2g}"
    if subject.spread == 0 and not subject.exact.any():
        return Verdict("unbiased", stated, "open", "all gradients are 0, and so is the exact one")
    if stated:
        return decide("unbiased", stated, figure, holds=relative <= UNBIASED)
    # No bias on one process is no proof that there is none on any.
    if relative <= BIASED and claims.off_policy != "none":
        relative = subject.relative(subject.behaviour_mean)
        figure = f"{figure}, {relative:.2g} with another policy's episodes"
    return Verdict("unbiased", stated, "confirmed" if relative > BIASED else "open", figure)


def off_policy_verdict(subject: Subject) -> Verdict:
    """Judge by the expectation over the behaviour policy's episodes."""
    stated = subject.estimator.claims.off_policy
    judge = {"exact": judge_exact, "limited": report_limited, "none": judge_none}[stated]
    return Verdict("off_policy", stated, *judge(subject))


def judge_exact(subject: Subject) -> tuple[str, str]:
    """Return a verdict on an estimator that is unbiased or consistent off-policy."""
    if not (subject.exact.any() or subject.mean.any() or subject.behaviour_mean.any()):
        return "open", "the expected gradient is 0 for either behaviour policy"
    relative = subject.relative(subject.behaviour_mean)
    figure = f"relative bias {relative:.2g} with another policy's episodes"
    if relative <= UNBIASED or subject.estimator.claims.unbiased:
        return "confirmed" if relative <= UNBIASED else "refuted", figure
    # Without a claim of no bias, a bias is allowed that vanishes with the size of the batch.
    limiting = population_bias(subject.estimator, subject.mdp, subject.policy)
    verdict = "open" if math.isnan(limiting) else "confirmed" if limiting <= UNBIASED else "refuted"
    return verdict, f"{figure}, {limiting:.2g} on a whole population of them"


def report_limited(subject: Subject) -> tuple[str, str]:
    """Return both biases without a verdict, or the critic's shift if the policy's gradient is 0."""
    if not (subject.mean.any() or subject.behaviour_mean.any()):
        moved = distance(
            subject.moments.significant_mean, subject.behaviour_moments.significant_mean
        )
        figure = f"another policy's episodes move the critic's by {moved:.2g}"
        return "reported", f"the policy's gradient is 0; {figure}"
    on_policy, off_policy = (
        subject.relative(mean) for mean in (subject.mean, subject.behaviour_mean)
    )
    return (
        "reported",
        f"relative bias {on_policy:.2g} on its own episodes, {off_policy:.2g} on another policy's",
    )


def judge_none(subject: Subject) -> tuple[str, str]:
    """Return a verdict on an estimator that needs the current policy's episodes.

    The figure is the distance by which the behaviour policy's episodes move its expectation.
    """
    moved = distance(subject.mean, subject.behaviour_mean)
    if math.isnan(moved):
        return "open", "the expected gradient is 0 for either behaviour policy"
    # In episodes of one step the behaviour policy changes no states, and a bias may hide the need.
    unmoved = moved <= UNBIASED and subject.relative(subject.behaviour_mean) <= UNBIASED
    needless = unmoved and finite_horizon("audit", subject.mdp) > 1
    verdict = "confirmed" if moved > BIASED else "refuted" if needless else "open"
    return verdict, f"another policy's episodes move the mean by {moved:.2g}"


def critic_verdict(
    estimator: Estimator, runs: Callable[[PolicySpec], None], specs: Mapping[str, PolicySpec]
) -> Verdict:
    """Judge by running without a critic; see `verdicts`."""
    stated = estimator.claims.needs_critic
    errors: list[str] = []
    # One policy that it runs on is enough: others may lack something else.
    for spec in specs.values():
        if spec.critic != "none":
            continue
        try:
            runs(spec)
        except PgcoreError as error:
            errors.append(summarize(error))
        else:
            return decide("needs_critic", stated, "runs without a critic", holds=not stated)
    return decide("needs_critic", stated, f"without a critic: {errors[0]}", holds=stated)


def discrete_verdict(estimator: Estimator, batch: int) -> Verdict:
    """Judge by running on continuous actions, with the claim out of the way."""
    stated = estimator.claims.discrete_only
    critic = "separate" if estimator.claims.needs_critic else "none"
    spec = PolicySpec(Table(3), DiagonalGaussian(1), critic)
    policy = make_policy(spec, backend="numpy", dtype="float64")
    # Episodes of two steps, with everything that an estimator may read.
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
    plain = Batch(**fields, extras={"reference": policy.distribution(fields["observations"])})
    # With the claim in place the core would refuse the policy before anything runs.
    unclaimed = with_claims(estimator, discrete_only=False)
    try:
        extras = example_extras(estimator.used_extras, plain, spec.head.width, rng)
    except PgcoreError as error:
        # An example that fails tells nothing of the estimator.
        figure = f"no example for continuous actions: {summarize(error)}"
        return Verdict("discrete_only", stated, "open", figure)
    try:
        run_gradient(policy, unclaimed, plain.with_extras(**extras))
    except PgcoreError as error:
        figure = f"on continuous actions: {summarize(error)}"
        return decide("discrete_only", stated, figure, holds=stated)
    return decide("discrete_only", stated, "runs on continuous actions", holds=not stated)


def whole_episodes_verdict(subject: Subject) -> Verdict:
    """Judge by the effects of truncation and of later steps on the gradient and the signals."""
    stated, claim = subject.estimator.claims.whole_episodes, "whole_episodes"
    moved = truncation_effect(subject)
    if math.isnan(moved) and (stated or finite_horizon("audit", subject.mdp) == 1):
        return Verdict(claim, stated, "open", "no episode can be truncated, or all gradients are 0")
    figure = f"taking truncated episodes for ended ones moves the gradient by {moved:.2g}"
    if stated:
        return decide(claim, stated, figure, holds=moved <= UNBIASED)
    # An estimator that reads the flag bootstraps; one that does not may still look ahead.
    if moved > BIASED:
        return decide(claim, stated, f"bootstraps: {figure}", holds=True)
    local = lookahead_effect(subject)
    figure = f"later steps move a step's signals by {local:.2g}"
    return decide(claim, stated, figure, holds=local <= UNBIASED)


def truncation_effect(subject: Subject) -> float:
    """Return the relative change of gradients when truncated episodes are marked as ended.

    It is relative to the largest gradient; NaN where no episode can be truncated, or all
    gradients are 0.
    """
    mdp, table = subject.mdp, subject.table
    steps = max(finite_horizon("audit", mdp) - 1, 1)
    episodes = all_episodes(mdp, table.probabilities, cut=steps)
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


def lookahead_effect(subject: Subject) -> float:
    """Return the largest relative change of first steps' signals without the steps after them."""
    batch = probe_batch(subject.estimator, subject.mdp, 2)
    starts = batch.episode_starts
    whole = run_signals(subject.policy, subject.estimator, batch).values
    alone = run_signals(subject.policy, subject.estimator, batch.steps(starts)).values
    largest = 0.0
    for name, value in whole.items():
        # Integers are actions and episode numbers; -inf is a masked action's.
        if value.dtype.kind == "f" and np.isfinite(value).all():
            size = max(float(np.abs(value).max()), TINY)
            largest = max(largest, float(np.abs(value[starts] - alone[name]).max() / size))
    return largest


def probe_batch(estimator: Estimator, mdp: MDP, size: int) -> Batch:
    """Return a batch of the longest episodes, by a policy with equal probabilities.

    Args:
        estimator: Declares extras.
        mdp: A process with a horizon.
        size: N, episodes in the batch.
    """
    uniform = np.full((mdp.states, mdp.actions), 1.0 / mdp.actions)
    episodes = all_episodes(mdp, uniform)
    longest = np.argsort(-episodes.lengths, kind="stable")
    # Neighbours share their first steps, so those far apart differ most.
    last = int((episodes.lengths == episodes.lengths.max()).sum()) - 1
    members = longest[np.linspace(0.0, last, size).astype(np.intp)]
    return batch_of(estimator, mdp, episodes, members, uniform, values=np.zeros(mdp.states))


def try_once(estimator: Estimator, batch: Batch, spec: PolicySpec) -> None:
    """Compute one gradient, or raise the estimator's error."""
    run_gradient(audit_policy(spec, 0), estimator, batch)


def with_claims(estimator: Estimator, **changes: Any) -> Estimator:
    """Return a copy of the estimator with some claims changed."""
    cls = type(estimator)
    claims: Claims = dataclasses.replace(estimator.claims, **changes)
    double = copy.copy(estimator)
    # `claims` may be a property, so that a subclass has to replace it.
    subclass = type(cls.__name__, (cls,), {"claims": property(lambda _: claims)})
    object.__setattr__(double, "__class__", subclass)
    return double


def summarize(error: Exception) -> str:
    """Return the part "expected ..., got ..." of an error's message."""
    text = str(error).partition(";")[0]
    return text[max(text.find("expected "), 0) :]
