"""Exact expectation and covariance of an estimator: the estimator runs on every batch that can happen."""

from __future__ import annotations

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

__all__ = ["NOTHING", "Moments", "couples", "moments", "root_mean_square"]

# What an expectation that is 0 comes to, beside the gradients that cancel in it: rounding.
NOTHING = 1e-12

# Far above rounding, far below what any coupling does.
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Moments:
    """What an estimator does on average, and how far it strays.

    Attributes:
        mean: [D] expected gradient of the loss, in canonical parameter order.
        covariance: [D, D] of the gradient of one batch.
        batch: N, episodes in a batch.
        coupled: Whether the gradient of a batch is something else than the mean of its episodes' own.
        runs: On how many batches the estimator ran.
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
    def seen(self) -> Array:
        """[D] the mean, or 0 where it is no more than what rounding leaves of gradients that cancel."""
        size = float(np.linalg.norm(self.mean))
        return self.mean * (size > NOTHING * root_mean_square(self.mean, self.covariance))


def root_mean_square(mean: Array, covariance: Array) -> float:
    """Return the root of E |g|^2, float64."""
    return float(np.sqrt(max(float(mean @ mean + np.trace(covariance)), 0.0)))


def moments(
    mdp: MDP,
    policy: Policy | Tabulated,
    estimator: Estimator,
    *,
    batch: int = 1,
    behaviour: Policy | Tabulated | None = None,
    told: Policy | Tabulated | None = None,
    cut: int | None = None,
) -> Moments:
    """Return the exact expectation and covariance of `pgcore.gradient` over all batches of some episodes.

    Where an estimator treats every episode by itself, which is seen on a sample of batches, all single episodes are enough; otherwise
    every combination of N episodes is run.

    Args:
        mdp: A process with a horizon, or with a cut.
        policy: Current policy: NumPy's in float64 for full precision, or a `softmax_table`.
        estimator: Any; it runs as in `pgcore.gradient`.
        batch: N, episodes in a batch.
        behaviour: The policy that acts; None is the current one.
        told: The policy whose log-probabilities the batch carries; None is the one that acts.
        cut: Stop watching each episode after this many steps; see `all_episodes`.

    Raises:
        MDPError: there are too many episodes or batches; says how many, and what would do.
        EstimatorError: estimator and policy do not fit.
        BatchError: the estimator needs more episodes than a batch has, or something that the batch lacks.
        NonFiniteError: the estimator gives NaN or infinity for a batch that can happen.
    """
    size = count("moments batch", batch, MDPError)
    table = tabulated(policy, mdp)
    if table.policy is not None:
        table.policy.check_fits(estimator)
    acting = table.probabilities if behaviour is None else tabulated(behaviour, mdp).probabilities
    episodes = all_episodes(mdp, acting, cut=cut)
    carried = acting if told is None else tabulated(told, mdp).probabilities
    estimates = Estimates(mdp, table, estimator, episodes, carried)
    coupled = size > 1 and couples(estimates, size)
    drawn = size if coupled else 1
    members, weights = all_tuples(episodes, drawn, ordered=coupled and minds_order(estimates, size))
    gradients = estimates.gradients(members)
    bad = row_not_finite(gradients)
    if bad is not None:
        raise NonFiniteError(
            f"moments of {estimator.name}: expected finite gradients, got NaN or infinity for episodes {members[bad].tolist()}; "
            "look at what the estimator does with those"
        )
    mean = weights @ gradients
    centred = gradients - mean
    covariance = centred.T @ (weights[:, None] * centred)
    return Moments(mean, covariance if coupled else covariance / size, size, coupled, len(members))


def couples(estimates: Estimates, size: int) -> bool:
    """Whether an estimator's gradient on batches of that size is something else than the mean of the episodes' own, beyond rounding."""
    members = sample(len(estimates.episodes), size)
    try:
        alone = estimates.gradients(members.reshape(-1, 1)).reshape(len(members), size, -1)
    except PgcoreError:
        estimates.gradients(members)  # where these fail too, it is for another reason
        return True  # it needs others to leave one out, or to compare with
    return _differ(estimates.gradients(members), alone.mean(axis=1))


def minds_order(estimates: Estimates, size: int) -> bool:
    """Whether an estimator's gradient is another, beyond rounding, where a batch's episodes come in reverse or in a random order."""
    members = sample(len(estimates.episodes), size)
    rng = np.random.Generator(np.random.Philox(8))
    orders = members[:, ::-1], rng.permuted(members, axis=1)
    gradients = estimates.gradients(members)
    return any(_differ(gradients, estimates.gradients(order)) for order in orders)


def _differ(left: Array, right: Array) -> bool:
    return not np.abs(left - right).max() <= ROUNDING * max(
        np.abs(right).max(), np.finfo(np.float64).tiny
    )
