"""Exact expectation and covariance of an estimator, run on every possible batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pgcore.errors import MDPError, NonFiniteError, PgcoreError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array, row_not_finite
from pgcore.validation.fields import count
from pgcore_exact.expectation.estimates import Estimates, sample
from pgcore_exact.process.episodes import all_episodes, all_tuples
from pgcore_exact.process.mdp import MDP
from pgcore_exact.process.tabulated import Tabulated, tabulated

__all__ = ["CANCELLATION", "Moments", "couples", "moments", "root_mean_square"]

# Size of an expectation that is 0, relative to the gradients that cancel in it: rounding.
CANCELLATION = 1e-12

# Relative difference of gradients: far above rounding, far below the effect of any coupling.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Moments:
    """The mean and the covariance of an estimator's gradient.

    Attributes:
        mean: [D] expected gradient of the loss, in canonical parameter order, reward units.
        covariance: [D, D] of the gradient of one batch, reward units squared.
        batch: N, episodes in a batch.
        coupled: Whether a batch's gradient is not the mean of its episodes' gradients.
        runs: Number of batches that the estimator ran on.
    """

    mean: Array
    covariance: Array
    batch: int
    coupled: bool
    runs: int

    @property
    def variance(self) -> float:
        """The trace of the covariance."""
        return float(np.trace(self.covariance))

    @property
    def significant_mean(self) -> Array:
        """[D] the mean, or 0 where it is no longer than the rounding of gradients that cancel."""
        size = float(np.linalg.norm(self.mean))
        return self.mean * (size > CANCELLATION * root_mean_square(self.mean, self.covariance))


def root_mean_square(mean: Array, covariance: Array) -> float:
    """Return the root of E |g|^2, float64.

    Args:
        mean: [D] E g.
        covariance: [D, D] of g.
    """
    return float(np.sqrt(max(float(mean @ mean + np.trace(covariance)), 0.0)))


def moments(
    mdp: MDP,
    policy: Policy | Tabulated,
    estimator: Estimator,
    *,
    batch: int = 1,
    behaviour: Policy | Tabulated | None = None,
    cut: int | None = None,
    extras: Mapping[str, Array] | None = None,
) -> Moments:
    """Return the exact expectation and covariance of `pgcore.gradient` over all batches.

    If an estimator treats the episodes of a batch separately, all single episodes are enough. This
    is tested on a sample of batches. Otherwise every combination of N episodes is run.

    Args:
        mdp: A process with a horizon, unless `cut` is given.
        policy: Current policy: NumPy's in float64 for full precision, or a `softmax_table`.
        estimator: Any; it runs as in `pgcore.gradient`.
        batch: N, episodes in a batch.
        behaviour: Behaviour policy; None is the current policy.
        cut: Truncate each episode after this many steps; see `all_episodes`.
        extras: [S, A, ...] of the batch's extras at every state and action, by name, such as
            "reference_log_probs"; those that the estimator declares have examples.

    Raises:
        MDPError: there are too many episodes or batches; gives their number and a remedy.
        EstimatorError: estimator and policy do not fit.
        BatchError: the estimator needs more episodes, or a field that the batch lacks.
        NonFiniteError: the estimator gives NaN or infinity for a possible batch.
    """
    size = count("moments batch", batch, MDPError)
    table = tabulated(policy, mdp)
    if table.policy is not None:
        table.policy.check_fits(estimator)
    acting = table.probabilities if behaviour is None else tabulated(behaviour, mdp).probabilities
    episodes = all_episodes(mdp, acting, cut=cut)
    estimates = Estimates(mdp, table, estimator, episodes, acting, extras)
    coupled = size > 1 and couples(estimates, size)
    ordered = coupled and depends_on_order(estimates, size)
    members, weights = all_tuples(episodes, size if coupled else 1, ordered=ordered)
    gradients = estimates.gradients(members)
    bad = row_not_finite(gradients)
    if bad is not None:
        raise NonFiniteError(
            f"moments of {estimator.name}: expected finite gradients, got NaN or infinity for "
            f"episodes {members[bad].tolist()}; run the estimator on those"
        )
    # The batch mean of independent episodes has their covariance over N.
    mean = weights @ gradients
    centred = gradients - mean
    covariance = centred.T @ (weights[:, None] * centred)
    return Moments(mean, covariance if coupled else covariance / size, size, coupled, len(members))


def couples(estimates: Estimates, size: int) -> bool:
    """Return whether a batch's gradient is not the mean of its episodes', beyond rounding.

    Args:
        estimates: The estimator on a process.
        size: N, episodes in a batch.
    """
    members = sample(len(estimates.episodes), size)
    try:
        alone = estimates.gradients(members.reshape(-1, 1)).reshape(len(members), size, -1)
    except PgcoreError:
        # A leave-one-out baseline needs two episodes. If batches fail too, the error is another.
        estimates.gradients(members)
        return True
    return _differ(estimates.gradients(members), alone.mean(axis=1))


def depends_on_order(estimates: Estimates, size: int) -> bool:
    """Return whether the gradient depends on the order of a batch's episodes, beyond rounding.

    Args:
        estimates: The estimator on a process.
        size: N, episodes in a batch.
    """
    members = sample(len(estimates.episodes), size)
    rng = np.random.Generator(np.random.Philox(8))
    orders = members[:, ::-1], rng.permuted(members, axis=1)
    gradients = estimates.gradients(members)
    return any(_differ(gradients, estimates.gradients(order)) for order in orders)


def _differ(left: Array, right: Array) -> bool:
    # NaN differs, hence the negation.
    size = max(np.abs(right).max(), np.finfo(np.float64).tiny)
    return not np.abs(left - right).max() <= ROUNDING * size
