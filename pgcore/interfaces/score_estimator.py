"""Estimators with a gradient from episodes' scores, not from a surrogate's derivative."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Estimator, Evaluate
from pgcore.interfaces.evaluation import Evaluation
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.surrogate import Surrogate
from pgcore.validation.arrays import Array

__all__ = ["ScoreEstimator"]


class ScoreEstimator(Estimator):
    """An estimator that combines the scores of whole episodes; its surrogate gives loss and metrics."""

    @property
    def sees_episodes(self) -> bool:
        """See `Estimator.sees_episodes`: whole episodes have scores."""
        return True

    def differentiate(self, policy: Policy, surrogate: Surrogate) -> Gradient:
        """See `Estimator.differentiate`: the result of `combine`."""
        evaluate = Evaluation(policy, surrogate.batch)
        vector = self.combine(surrogate.batch, evaluate, surrogate.values, surrogate.weights)
        return policy.gradient_from(vector, surrogate)

    @abstractmethod
    def combine(
        self, batch: Batch, evaluate: Evaluate, signals: Mapping[str, Array], weights: Array
    ) -> Array:
        """Return the loss's gradient as a [D] vector in canonical parameter order.

        Args:
            batch: The episodes.
            evaluate: Gives the `scores` to combine.
            signals: The result of `signals`, finalised.
            weights: [B] the reduction's weights.
        """
