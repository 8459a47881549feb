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
from pgcore.arrays import Array
from pgcore.batch import Batch
from pgcore.errors import PgcoreError
from pgcore.estimator import Claims, Estimator
from pgcore.exact.behaviours import (
    OF_ACTIONS,
    distance,
    is_likelihood,
    mixes_steps,
    one_step_moves,
    population_moves,
    reads_behaviour,
    second_step_moves,
)
from pgcore.exact.dynamics import gradient, gradient_terms
from pgcore.exact.episodes import all_episodes
from pgcore.exact.estimates import Estimates, sample
from pgcore.exact.fixed_points import fixed_point_moves
from pgcore.exact.mdp import MDP, limit
from pgcore.exact.moments import NOTHING, Moments, moments, root_mean_square
from pgcore.exact.needs import audit_policy, extras
from pgcore.exact.shares import limits
from pgcore.exact.tabulated import Tabulated, tabulated
from pgcore.heads import DiagonalGaussian
from pgcore.policy import Policy
from pgcore.spec import PolicySpec, Table

__all__ = ["Subject", "Verdict", "probe_batch", "reclaimed", "try_once", "verdicts"]

# A relative bias above the first is a bias; one below the second is rounding; nothing has been seen between them.
BIASED, UNBIASED = 1e-6, 1e-9


@dataclass(frozen=True, slots=True)
class Verdict:
    """What running an estimator says of one claim.

    Attributes:
        claim: The field of `Claims`.
        stated: What the estimator claims.
        verdict: "confirmed", "refuted", or "open" where this process cannot tell.
        figure: What decides.
    """

    claim: str
    stated: bool
    verdict: str
    figure: str


class Subject:
    """An estimator with all that its claims are judged by, another policy among it, for episodes that are not from the current one."""

    def __init__(
        self, estimator: Estimator, mdp: MDP, policy: Policy, behaviour: Policy, found: Moments, batch: int
    ) -> None:
        """Keep all, and take the exact gradient, with or without the state's discount, that the expectation is nearer to."""
        self.estimator, self.mdp, self.policy, self.behaviour = estimator, mdp, policy, behaviour
        self.found, self.batch = found, batch
        self.table: Tabulated = tabulated(policy, mdp)
        self.own = self.table.own
        both = {flag: gradient(mdp, self.table, discount_state=flag)[self.own] for flag in (True, False)}
        mean, terms = found.mean[self.own], gradient_terms(mdp, self.table)[self.own]
        self.discount_state = min(both, key=lambda flag: float(np.linalg.norm(mean - both[flag])))
        self.spread = root_mean_square(mean, found.covariance[np.ix_(self.own, self.own)])
        self.rounding = NOTHING * max(self.spread, float(np.linalg.norm(terms)))
        self.exact, self.mean = self.beyond(both[self.discount_state]), self.beyond(mean)

    def beyond(self, vector: Array) -> Array:
        """Return a vector, or 0 where it is no more than what rounding leaves of terms that cancel."""
        return vector * (float(np.linalg.norm(vector)) > self.rounding)

    @cached_property
    def mean_away(self) -> Array:
        """The expectation over the other policy's episodes."""
        found = moments(self.mdp, self.policy, self.estimator, batch=self.batch, behaviour=self.behaviour)
        return self.beyond(found.seen[self.own])

    def relative(self, mean: Array) -> float:
        """Return the relative bias of an expected gradient; infinite where the exact one is 0, as with one action, and this is not."""
        bias, size = float(np.linalg.norm(self.beyond(mean - self.exact))), float(np.linalg.norm(self.exact))
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
        on_policy_verdict(subject),
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
        return Verdict("unbiased", stated, "confirmed" if relative <= UNBIASED else "refuted", figure)
    if relative <= BIASED and not claims.on_policy:
        relative = subject.relative(subject.mean_away)
        figure = f"{figure}, {relative:.2g} with another policy's episodes"
    return Verdict("unbiased", stated, "confirmed" if relative > BIASED else "open", figure)


def on_policy_verdict(subject: Subject) -> Verdict:
    """Judge by what another policy's episodes do to the expectation: all that they can where it is claimed, and else as `corrects`."""
    claims = subject.estimator.claims
    if not (claims.on_policy or claims.unbiased):
        verdict, figure = corrects(subject)
        return Verdict("on_policy", claims.on_policy, verdict, figure)
    moved = distance(subject.mean, subject.mean_away)
    if math.isnan(moved):
        return Verdict("on_policy", claims.on_policy, "open", "the expected gradient is 0, whoever acts")
    relative = subject.relative(subject.mean_away)
    if claims.on_policy:
        figure = f"another policy's episodes move the mean by {moved:.2g}"
        # Over single steps who acts changes no states, and what is biased anyhow may be moved elsewhere.
        needless = moved <= UNBIASED and relative <= UNBIASED and limit("audit", subject.mdp) > 1
        verdict = "confirmed" if moved > BIASED else "refuted" if needless else "open"
        return Verdict("on_policy", claims.on_policy, verdict, figure)
    figure = f"relative bias {relative:.2g} with another policy's episodes"
    return Verdict("on_policy", claims.on_policy, "confirmed" if relative <= UNBIASED else "refuted", figure)


def corrects(subject: Subject) -> tuple[str, str]:
    """Return a verdict on a biased estimator that takes any policy's episodes, and what decides."""
    shared, behaviour = (subject.estimator, subject.mdp, subject.policy), subject.behaviour
    mixing = mixes_steps(*shared, subject.batch)
    figures, unmoved = acting_figures(subject, mixing=mixing)
    if figures and unmoved:
        return "confirmed", ", ".join(figures)
    if OF_ACTIONS.issuperset(subject.estimator.quantities):
        settled = fixed_point_moves(*shared)
        figures += [] if math.isnan(settled) else [f"who acts moves what its values settle at by {settled:.2g}"]
        if settled <= UNBIASED:
            return "confirmed", ", ".join(figures)
    if is_likelihood(*shared):
        return "confirmed", "a likelihood: every step makes its action more probable, whatever its reward"
    population = population_moves(*shared)
    if population <= UNBIASED:
        return "confirmed", f"on all episodes of one step at once, who acts moves its gradient by {population:.2g}"
    if not mixing:
        off, least = limits(*shared, behaviour)
        if off <= UNBIASED:
            return (
                "confirmed",
                f"rewards of actions taken too often count for their due, to {off:.2g}, others for {least:.2g} of it or more",
            )
    told = reads_behaviour(*shared, behaviour, subject.batch)
    if math.isnan(told):
        return "open", "gradients are 0, whoever acts"
    if told <= UNBIASED:
        return "refuted", ", ".join([*figures, "whoever is said to have acted"])
    return "open", ", ".join([*figures, f"who is said to have acted moves it by {told:.2g}"])


def acting_figures(subject: Subject, *, mixing: bool) -> tuple[list[str], bool]:
    """Return what who acts moves, in words, and whether that is nothing; second steps are looked at by themselves, unless batches mix them."""
    shared, behaviour = (subject.estimator, subject.mdp, subject.policy), subject.behaviour
    moved = one_step_moves(*shared, behaviour, subject.batch)
    later = math.nan if mixing else second_step_moves(*shared, behaviour)
    figures = [] if math.isnan(moved) else [f"who acts in a state moves its gradient by {moved:.2g}"]
    figures += [] if math.isnan(later) else [f"that of second steps by {later:.2g}"]
    moves = [moved, later]
    if OF_ACTIONS.intersection(subject.estimator.quantities):
        moves.append(prefix_moves(subject))
        figures.append(f"what follows a step moves its targets by {moves[-1]:.2g}")
    return figures, not any(each > UNBIASED for each in moves)


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
            return Verdict("needs_critic", stated, "refuted" if stated else "confirmed", "runs without a critic")
    return Verdict("needs_critic", stated, "confirmed" if stated else "refuted", f"without a critic: {errors[0]}")


def discrete_verdict(estimator: Estimator, batch: int) -> Verdict:
    """Judge by running on real actions, whatever the claim says."""
    stated = estimator.claims.discrete_only
    critic = "separate" if estimator.claims.needs_critic else "none"
    policy = make_policy(PolicySpec(Table(3), DiagonalGaussian(1), critic), backend="numpy", dtype="float64")
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
        run_gradient(policy, reclaimed(estimator, discrete_only=False), Batch(**fields, extras=described))
    except PgcoreError as error:
        figure = f"on real actions: {essence(error)}"
        return Verdict("discrete_only", stated, "confirmed" if stated else "refuted", figure)
    return Verdict("discrete_only", stated, "refuted" if stated else "confirmed", "runs on real actions")


def whole_episodes_verdict(subject: Subject) -> Verdict:
    """Judge by whether it matters that an episode was cut, and whether a step's signals look past it."""
    stated = subject.estimator.claims.whole_episodes
    moved = flag_moves(subject)
    if math.isnan(moved) and (stated or limit("audit", subject.mdp) == 1):
        return Verdict("whole_episodes", stated, "open", "no episode can be cut, or all gradients are 0")
    if stated:
        figure = f"taking cut episodes for ended ones moves the gradient by {moved:.2g}"
        return Verdict("whole_episodes", stated, "confirmed" if moved <= UNBIASED else "refuted", figure)
    if moved > BIASED:
        return Verdict(
            "whole_episodes",
            stated,
            "confirmed",
            f"bootstraps: taking cut episodes for ended ones moves the gradient by {moved:.2g}",
        )
    local = prefix_moves(subject)
    figure = f"what follows a step moves its signals by {local:.2g}"
    return Verdict("whole_episodes", stated, "confirmed" if local <= UNBIASED else "refuted", figure)


def flag_moves(subject: Subject) -> float:
    """Return how far gradients move, relative to the largest, where episodes that were cut are said to have ended.

    NaN where no episode can be cut, or all gradients are 0, and nothing can be told.
    """
    mdp, table = subject.mdp, subject.table
    episodes = all_episodes(mdp, table.probabilities, cut=max(limit("audit", mdp) - 1, 1))
    ended = dataclasses.replace(episodes, terminated=np.ones(len(episodes), np.bool_))
    chosen = sample(len(episodes), max(subject.batch, 2))
    found = [
        Estimates(mdp, table, subject.estimator, each, table.probabilities).gradients(chosen)
        for each in (episodes, ended)
    ]
    largest = max(float(np.abs(each).max()) for each in found)
    return (
        float(np.abs(found[0] - found[1]).max()) / largest
        if largest > 0 and not episodes.terminated.all()
        else math.nan
    )


def prefix_moves(subject: Subject) -> float:
    """Return how far the signals of first steps move where everything after them is left out."""
    batch = probe_batch(subject.mdp, 2)
    whole = run_signals(subject.policy, subject.estimator, batch)
    first = batch.steps(batch.episode_starts)
    alone = run_signals(subject.policy, subject.estimator, first)
    moves = [
        float(np.abs(value[batch.episode_starts] - alone.values[name]).max() / max(float(np.abs(value).max()), 1e-300))
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
    chosen = longest[np.linspace(0.0, last, size).astype(np.intp)].tolist()
    steps = np.concatenate([int(episodes.starts[each]) + np.arange(int(episodes.lengths[each])) for each in chosen])
    return Batch(
        observations=mdp.seen[episodes.states[steps]],
        actions=episodes.actions[steps],
        rewards=episodes.rewards[steps],
        episode_lengths=episodes.lengths[chosen],
        terminated=episodes.terminated[chosen],
        final_observations=mdp.seen[episodes.final_states[chosen]],
        log_probs=np.full(len(steps), -np.log(mdp.actions)),
        values=np.zeros(len(steps)),
        extras={
            name: value[episodes.states[steps], episodes.actions[steps]] for name, value in extras(mdp, uniform).items()
        },
    )


def try_once(estimator: Estimator, batch: Batch, spec: PolicySpec) -> None:
    """Compute one gradient, or raise the estimator's error."""
    run_gradient(audit_policy(spec, 0), estimator, batch)


def reclaimed(estimator: Estimator, **changes: bool) -> Estimator:
    """Return the estimator with other claims, whatever its own say."""
    cls = type(estimator)
    claims: Claims = dataclasses.replace(estimator.claims, **changes)
    made = copy.copy(estimator)
    object.__setattr__(made, "__class__", type(cls.__name__, (cls,), {"claims": property(lambda _: claims)}))
    return made


def essence(error: Exception) -> str:
    """Return what an error's message says was expected and what was there, without where and advice."""
    text = str(error).partition(";")[0]
    return text[max(text.find("expected "), 0) :]
