"""Audits of penalties: whether the expected derivative of each is the gradient of a KL divergence."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from pgcore.errors import EstimatorError
from pgcore.parts import Penalty
from pgcore.validation.arrays import Array
from pgcore_exact.audits import audit_process
from pgcore_exact.claims import BIASED, UNBIASED, Verdict, decide, probe_batch, try_once
from pgcore_exact.expectation.moments import moments
from pgcore_exact.expectation.needs import audit_policy, first_fitting, policies
from pgcore_exact.penalties.alone import PenaltyAlone
from pgcore_exact.process.dynamics import gradient, visits
from pgcore_exact.process.mdp import MDP, finite_horizon
from pgcore_exact.process.tabulated import Tabulated, every_action, tabulated

__all__ = ["DIVERGENCES", "PenaltyAudit", "audit_penalty", "has_reference"]

# The divergences by the names of their quantities, each with its formula.
DIVERGENCES = {"reverse_kl": "KL(pi, reference)", "kl": "KL(reference, pi)"}
# The extras that hold a reference policy; a penalty that reads none has nothing to be compared with.
REFERENCES = {"reference", "reference_log_probs"}

# A relative error that is rounding.
ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class PenaltyAudit:
    """The expected derivative of one penalty beside the gradients of the divergences.

    Errors are norms of differences, relative to the gradient of the divergence, by its name.

    Attributes:
        penalty: The penalty.
        on_policy: Over episodes of the current policy, from the gradient at the visited states.
        off_policy: Over another policy's episodes, from the gradient at their states.
        episode: Over episodes of the current policy, from the gradient of the expected sum over an
            episode: the states depend on the policy as well.
        off_policy_episode: From the same gradient, over another policy's episodes. Those of a
            penalty in the reward are weighted by their ratios.
        verdicts: One on `gradient_of`, one on `off_policy`.
    """

    penalty: Penalty
    on_policy: Mapping[str, float]
    off_policy: Mapping[str, float]
    episode: Mapping[str, float]
    off_policy_episode: Mapping[str, float]
    verdicts: tuple[Verdict, ...]

    @property
    def refuted(self) -> bool:
        """Whether any claim is refuted."""
        return any(verdict.verdict == "refuted" for verdict in self.verdicts)


def audit_penalty(penalty: Penalty, mdp: MDP | None = None, *, seed: int = 0) -> PenaltyAudit:
    """Return the errors of a penalty's expected derivative, and a verdict on each of its claims.

    The policy, the reference and the other policy are tables of random logits.

    Args:
        penalty: Its coefficient is not 0; errors do not depend on it.
        mdp: With a horizon; None takes `audit_process()`. Its rewards are not read.
        seed: Of the policies.

    Raises:
        EstimatorError: the coefficient is 0, the penalty reads no reference, or no policy suits it.
        MDPError: the process is too large or has no horizon.

    Example:
        >>> import pgcore_exact as exact
        >>> audit = exact.audit_penalty(pg.KL("k2", 1.0))
        >>> audit.on_policy["reverse_kl"] < 1e-12 < audit.off_policy["reverse_kl"]
        True
    """
    check_penalty(penalty)
    process = audit_process() if mdp is None else mdp
    finite_horizon("audit", process)
    process = process.replaced(gamma=1.0, reward=np.zeros_like(process.reward))
    estimator = PenaltyAlone(penalty)
    specs = policies(process)
    runs = partial(try_once, estimator, probe_batch(estimator, process, 2))
    spec = specs[first_fitting(estimator, specs, runs)]
    policy, behaviour, reference = (audit_policy(spec, seed + shift) for shift in range(3))
    table, acting, prior = (tabulated(one, process) for one in (policy, behaviour, reference))
    rows = every_action(process)
    shape = process.states, process.actions
    distribution = reference.evaluate(rows, ("distribution",))["distribution"]
    extras = {
        "reference": distribution.reshape(*shape, -1),
        "reference_log_probs": np.log(prior.probabilities),
    }
    mask = table.actor_mask
    on_policy, off_policy = (
        moments(process, policy, estimator, behaviour=sampler, extras=extras).mean[mask]
        / penalty.coefficient
        for sampler in (None, behaviour)
    )
    divergences = Divergences(process, table, prior.probabilities)
    audit = PenaltyAudit(
        penalty,
        on_policy=divergences.errors(on_policy, visits(process, table)),
        off_policy=divergences.errors(off_policy, visits(process, acting)),
        episode=divergences.errors(on_policy),
        off_policy_episode=divergences.errors(off_policy),
        verdicts=(),
    )
    return dataclasses.replace(audit, verdicts=penalty_verdicts(audit))


def check_penalty(penalty: Penalty) -> None:
    """Raise EstimatorError where a penalty has no derivative, or no reference to be compared with."""
    if penalty.coefficient == 0:
        raise EstimatorError(
            f"{penalty}: expected a coefficient other than 0, got 0; audit it with another"
        )
    if not has_reference(penalty):
        raise EstimatorError(
            f"{penalty}: expected one of the extras {sorted(REFERENCES)}, got "
            f"{sorted(penalty.used_extras)}; only a penalty with a reference policy can be audited"
        )


def has_reference(penalty: Penalty) -> bool:
    """Return whether a penalty reads a reference policy."""
    return not REFERENCES.isdisjoint(penalty.used_extras)


class Divergences:
    """The gradients of both divergences.

    Attributes:
        mdp: The process, without rewards.
        table: The current policy.
        prior: [S, A] float64. The reference's probabilities.
    """

    def __init__(self, mdp: MDP, table: Tabulated, prior: Array) -> None:
        """Set the process and the policies."""
        self.mdp, self.table, self.prior = mdp, table, prior
        pi = table.probabilities
        log_ratio = np.log(pi) - np.log(prior)
        # By divergence, [S, A] the weights of the scores in its gradient, and [S] its value.
        self.slopes = {"reverse_kl": pi * log_ratio, "kl": -prior}
        self.values = {
            "reverse_kl": (pi * log_ratio).sum(axis=1),
            "kl": -(prior * log_ratio).sum(axis=1),
        }

    def errors(self, mean: Array, visited: Array | None = None) -> dict[str, float]:
        """Return the relative errors of an expected gradient, by divergence.

        Args:
            mean: [D] of the policy's parameters.
            visited: [H, S] visits, which the gradients hold; None differentiates them too.
        """
        errors: dict[str, float] = {}
        for name in DIVERGENCES:
            exact = self.gradient(name, visited)[self.table.actor_mask]
            error = float(np.linalg.norm(mean - exact) / np.linalg.norm(exact))
            errors[name] = error if error > ROUNDING else 0.0
        return errors

    def gradient(self, name: str, visited: Array | None) -> Array:
        """Return [D] the gradient of a divergence; see `errors`."""
        held = visits(self.mdp, self.table) if visited is None else visited
        weights = held.sum(axis=0)[:, None] * self.slopes[name]
        local: Array = np.tensordot(weights, self.table.scores, 2)
        if visited is not None:
            return local
        cost = np.repeat(self.values[name][:, None], self.mdp.actions, axis=1)
        # The loss of a return of -cost is the expected sum of the costs.
        return local + gradient(self.mdp.replaced(reward=-cost), self.table)


def penalty_verdicts(audit: PenaltyAudit) -> tuple[Verdict, ...]:
    """Return the verdicts on `gradient_of` and `off_policy`."""
    penalty = audit.penalty
    stated, off_policy = penalty.gradient_of, penalty.off_policy
    current, another = audit.on_policy, audit.off_policy
    if penalty.in_reward:
        current, another = audit.episode, audit.off_policy_episode
    figure = f"relative errors {shown(current)}"
    if stated == "none":
        # An error on one process is a proof; none on one process is not.
        verdict = "confirmed" if min(current.values()) > BIASED else "open"
        first = Verdict("gradient_of", stated, verdict, figure)
        elsewhere = min(another.values())
    else:
        first = decide("gradient_of", stated, figure, holds=current[stated] <= UNBIASED)  # pyright: ignore[reportArgumentType]
        elsewhere = another[stated]
    figure = f"relative errors {shown(another)} with another policy's episodes"
    if off_policy:
        second = decide("off_policy", off_policy, figure, holds=elsewhere <= UNBIASED)
    else:
        verdict = "confirmed" if elsewhere > BIASED else "open"
        second = Verdict("off_policy", off_policy, verdict, figure)
    return first, second


def shown(errors: Mapping[str, float]) -> str:
    """Return errors as text."""
    texts = (f"{errors[name]:.2g} from {formula}" for name, formula in DIVERGENCES.items())
    return ", ".join(texts)
