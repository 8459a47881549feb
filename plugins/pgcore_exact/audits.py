"""An audit: an estimator's exact bias and variance on one process, and a verdict on each claim."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import MDPError
from pgcore.interfaces.estimator import Estimator, check_claims
from pgcore.interfaces.reduction import checked_weights
from pgcore.validation.fields import count
from pgcore_exact.claims import Subject, Verdict, probe_batch, try_once, verdicts
from pgcore_exact.expectation.moments import moments
from pgcore_exact.expectation.needs import audit_policy, first_fitting, policies
from pgcore_exact.process.dynamics import visits
from pgcore_exact.process.mdp import MDP, finite_horizon, random

__all__ = ["Audit", "Row", "audit", "audit_process"]


@dataclass(frozen=True, slots=True)
class Audit:
    """An estimator's exact figures on one process, of the policy's parameters without a critic's.

    Attributes:
        estimator: The estimator.
        policy: Label of its policy among `pgcore_exact.expectation.needs.policies`.
        batch: N, episodes in a batch.
        coupled: Whether a batch's episodes are mixed. All batches were run then, otherwise all
            single episodes.
        runs: Number of batches, or episodes, that the estimator ran on.
        length: Expected length of an episode, steps.
        discount_state: Whether the exact gradient weighs time t by gamma^t: the nearer one of both.
        exact: Norm of the exact gradient, reward units.
        bias: Norm of the expected gradient less the exact one, reward units.
        relative: `bias` over `exact`.
        factor: The factor from the estimator's reduction to a sum over an episode's steps, such as
            `length` from a mean over steps; 1 for a sum.
        rescaled: `relative` with the expected gradient times `factor`, as its user's learning rate
            would do.
        cosine: Between expected and exact gradient; NaN where one of them is 0.
        scale: The factor of the exact gradient in its least-squares fit to the expected one.
        variance: Trace of the covariance of one batch's gradient, reward units squared.
        verdicts: One for each claim.
        seconds: Duration of the audit.
    """

    estimator: Estimator
    policy: str
    batch: int
    coupled: bool
    runs: int
    length: float
    discount_state: bool
    exact: float
    bias: float
    relative: float
    factor: float
    rescaled: float
    cosine: float
    scale: float
    variance: float
    verdicts: tuple[Verdict, ...]
    seconds: float

    @property
    def refuted(self) -> bool:
        """Whether any claim is refuted."""
        return any(verdict.verdict == "refuted" for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class Row:
    """One estimator of a table: its audit, or the reason for its absence.

    Attributes:
        label: The estimator's name in the table.
        audit: The audit; None where it failed.
        error: The reason, on one line.
    """

    label: str
    audit: Audit | None
    error: str | None = None

    @property
    def refuted(self) -> bool:
        """Whether a claim is refuted, or the audit failed."""
        return self.audit is None or self.audit.refuted


def audit_process(
    states: int = 4, actions: int = 2, horizon: int = 3, seed: int = 0, *, terminals: int = 1
) -> MDP:
    """Return the default process of audits: random, with episodes of different lengths."""
    return random(states, actions, horizon, seed, terminals=terminals)


def audit(estimator: Estimator, mdp: MDP | None = None, *, batch: int = 2, seed: int = 0) -> Audit:
    """Return an estimator's exact bias and variance on a process, and a verdict on each claim.

    The policy is a table of random logits, with random values where the estimator needs a critic: a
    claim must hold for any policy. The objective's gamma is the estimator's field `gamma` if it has
    one, otherwise the process's.

    Args:
        estimator: The estimator.
        mdp: With a horizon; None takes `audit_process()`.
        batch: N, episodes in a batch.
        seed: Of the policies.

    Raises:
        EstimatorError: claims contradict the surrogate's signature, or no policy of a proof suits.
        MDPError: the process is too large or has no horizon, or the batch is not a count.
        BatchError: the estimator needs more episodes than a batch has, or unknown extras.
    """
    start = time.perf_counter()
    count("audit batch", batch, MDPError)
    check_claims(estimator)
    process = audit_process() if mdp is None else mdp
    finite_horizon("audit", process)
    process = process.replaced(gamma=getattr(estimator, "gamma", process.gamma))
    # The first policy that the estimator runs on, and a second one as behaviour policy.
    specs = policies(process)
    runs = partial(try_once, estimator, probe_batch(estimator, process, max(batch, 2)))
    fitting = first_fitting(estimator, specs, runs)
    policy, behaviour = (audit_policy(specs[fitting], seed + shift) for shift in (0, 1))
    expected = moments(process, policy, estimator, batch=batch)
    subject = Subject(estimator, process, policy, behaviour, expected, batch)
    mean, exact, mask = subject.mean, subject.exact, subject.actor_mask
    length = float(visits(process, policy).sum())
    mean_norm, exact_norm = float(np.linalg.norm(mean)), float(np.linalg.norm(exact))
    inner = float(mean @ exact)
    factor = scale_of(estimator, length, probe_batch(estimator, process, batch))
    return Audit(
        estimator=estimator,
        policy=fitting,
        batch=batch,
        coupled=expected.coupled,
        runs=expected.runs,
        length=length,
        discount_state=subject.discount_state,
        exact=exact_norm,
        bias=float(np.linalg.norm(mean - exact)),
        relative=subject.relative(mean),
        factor=factor,
        rescaled=subject.relative(factor * mean),
        cosine=inner / (mean_norm * exact_norm) if min(mean_norm, exact_norm) > 0 else np.nan,
        scale=inner / exact_norm**2 if exact_norm > 0 else np.nan,
        variance=float(np.trace(expected.covariance[np.ix_(mask, mask)])),
        verdicts=verdicts(subject, runs, specs),
        seconds=time.perf_counter() - start,
    )


def scale_of(estimator: Estimator, length: float, longest: Batch) -> float:
    """Return the factor from the estimator's reduction to a sum over an episode's steps.

    Args:
        estimator: The estimator.
        length: Expected length of an episode, steps.
        longest: An audit's batch of episodes, all of the greatest length.
    """
    # An unbiased mean over steps has terms of whole episodes, so it is not scaled.
    if estimator.claims.unbiased:
        return 1.0
    reduction, steps = estimator.reduction, int(longest.episode_lengths[0])
    one_step = longest.steps(longest.episode_starts)
    first = float(checked_weights(reduction, one_step).sum())
    # The sum of all weights is constant in the length for a mean, and linear for a sum.
    slope = (float(checked_weights(reduction, longest).sum()) - first) / max(steps - 1, 1)
    total = first + slope * (length - 1.0)
    return length / total if total > 0 else 1.0
