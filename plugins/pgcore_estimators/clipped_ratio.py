"""The clipped ratio without a critic: the base of the group-relative estimators."""

from __future__ import annotations

from abc import abstractmethod

from pgcore.interfaces.estimator import Claims, Estimator
from pgcore.validation.arrays import Array
from pgcore_estimators.terms import is_clipped

__all__ = ["ClippedRatio"]


class ClippedRatio(Estimator):
    """A loss of clipped ratios to the behaviour policy, on whole episodes."""

    @property
    def claims(self) -> Claims:
        """See `Estimator.claims`."""
        return Claims(
            unbiased=False,
            off_policy="none",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The logarithms of the ratio's bounds."""

    def clipped(self, log_ratio: Array, advantage: Array) -> Array:
        """See `Estimator.clipped`."""
        return is_clipped(log_ratio, advantage, self.bounds)
