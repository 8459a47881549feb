"""Is an estimator what it claims to be? Exact bias and variance on one process, and a verdict on each claim."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from pgcore.errors import MDPError
from pgcore.interfaces.estimator import Estimator, Reduction, check_claims
from pgcore.validation.fields import count
from pgcore_exact.claims import Subject, Verdict, probe_batch, try_once, verdicts
from pgcore_exact.expectation.moments import moments
from pgcore_exact.expectation.needs import audit_policy, first_fitting, policies
from pgcore_exact.process.dynamics import visits
from pgcore_exact.process.mdp import MDP, limit, random

__all__ = ["Audit", "Row", "audit", "audit_process"]


@dataclass(frozen=True, slots=True)
class Audit:
    """An estimator on one process, exactly. Figures are of the policy's own parameters; a critic's are left out.

    Attributes:
        estimator: What was audited.
        policy: Which of `pgcore_exact.expectation.needs.policies` it ran with.
        batch: N, episodes in a batch.
        coupled: Whether a batch's episodes are mixed: then all batches were run, and otherwise all single episodes.
        runs: On how many of them the estimator ran.
        length: Expected length of an episode, steps.
        discount_state: Whether the exact gradient weighs time t by gamma^t: of the two, the one that the estimator is nearer to.
        exact: Norm of the exact gradient, reward units.
        bias: Norm of the expected gradient less the exact one.
        relative: `bias` over `exact`.
        rescaled: The same with the expected gradient times `length` where the loss is a mean over steps, as its user's
            learning rate would; `relative` elsewhere.
        cosine: Between expected and exact gradient; NaN where one of them is 0.
        scale: The multiple of the exact gradient that is nearest to the expected one.
        variance: Trace of the covariance of one batch's gradient.
        verdicts: One for each claim.
        seconds: It took.
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

    @property
    def factor(self) -> float:
        """What the gradient of a mean over steps is smaller by: `length`; 1 for a sum over an episode's steps."""
        return scale_of(self.estimator, self.length)


@dataclass(frozen=True, slots=True)
class Row:
    """One estimator of a table: its audit, or why there is none.

    Attributes:
        label: How the table names it.
        audit: None where it failed.
        error: Why it failed, on one line.
    """

    label: str
    audit: Audit | None
    error: str | None = None

    @property
    def refuted(self) -> bool:
        """Whether a claim is refuted, or nothing could be told."""
        return self.audit is None or self.audit.refuted


def audit_process(
    states: int = 4, actions: int = 2, horizon: int = 3, seed: int = 0, *, terminals: int = 1
) -> MDP:
    """Return the process that audits use unless told otherwise: random, and with episodes of different lengths."""
    return random(states, actions, horizon, seed, terminals=terminals)


def audit(estimator: Estimator, mdp: MDP | None = None, *, batch: int = 2, seed: int = 0) -> Audit:
    """Return an estimator's exact bias and variance on a process, and a verdict on each of its claims.

    The policy is a table of random logits, with random values where the estimator needs a critic: a claim must hold for any. Where
    the estimator has a field `gamma`, that is the objective's; otherwise the process's own is.

    Args:
        estimator: What to audit.
        mdp: With a horizon; None takes `audit_process()`.
        batch: N, episodes in a batch.
        seed: Of the policies.

    Raises:
        EstimatorError: claims contradict the surrogate's signature, or no policy of a proof suits the estimator.
        MDPError: the process is too large, or has no horizon; or the batch is not a count.
        BatchError: the estimator needs more episodes than a batch has, or extras that no proof gives.
    """
    start = time.perf_counter()
    count("audit batch", batch, MDPError)
    check_claims(estimator)
    process = audit_process() if mdp is None else mdp
    limit("audit", process)
    process = process.replaced(gamma=getattr(estimator, "gamma", process.gamma))
    specs = policies(process)
    runs = partial(try_once, estimator, probe_batch(process, max(batch, 2)))
    fitting = first_fitting(estimator, specs, runs)
    policy = audit_policy(specs[fitting], seed)
    expected = moments(process, policy, estimator, batch=batch)
    subject = Subject(
        estimator, process, policy, audit_policy(specs[fitting], seed + 1), expected, batch
    )
    mean, exact = subject.mean, subject.exact
    length = float(visits(process, policy).sum())
    norms = float(np.linalg.norm(mean)), float(np.linalg.norm(exact))
    return Audit(
        estimator=estimator,
        policy=fitting,
        batch=batch,
        coupled=expected.coupled,
        runs=expected.runs,
        length=length,
        discount_state=subject.discount_state,
        exact=norms[1],
        bias=float(np.linalg.norm(mean - exact)),
        relative=subject.relative(mean),
        rescaled=subject.relative(scale_of(estimator, length) * mean),
        cosine=float(mean @ exact) / (norms[0] * norms[1]) if min(norms) > 0 else float("nan"),
        scale=float(mean @ exact) / norms[1] ** 2 if norms[1] > 0 else float("nan"),
        variance=float(np.trace(expected.covariance[np.ix_(subject.own, subject.own)])),
        verdicts=verdicts(subject, runs, specs),
        seconds=time.perf_counter() - start,
    )


def scale_of(estimator: Estimator, length: float) -> float:
    """Return what a gradient is to be multiplied by; a mean over steps of what is the episode's at each of them is none, and unbiased."""
    return (
        1.0 if estimator.reduction is Reduction.TRAJECTORY or estimator.claims.unbiased else length
    )
