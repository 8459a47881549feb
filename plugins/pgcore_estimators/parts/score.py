"""Gains without a clip: of the score function, and of the ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgcore.parts import Objective
from pgcore.parts.objectives import Slope
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native
from pgcore.xp.numpy import host
from pgcore_estimators.terms import log_ratio_of_gain

__all__ = ["Ratio", "Score"]


@dataclass(frozen=True)
class Score(Objective):
    """gain = A log pi(a_t given s_t): the policy gradient itself, without a ratio."""

    reads_ratio = False
    unbiased = True
    name = "score"
    sources = ("Williams 1992, Machine Learning 8, eq. 11",)

    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """See `Objective.gain`."""
        return log_prob * advantage

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Objective.slope`."""
        return None, advantage


@dataclass(frozen=True)
class Ratio(Objective):
    """gain = r A."""

    unbiased = True
    name = "ratio"
    sources = ("Schulman et al. 2015, eq. 14, arXiv:1502.05477",)

    def gain(
        self,
        xp: ArrayNamespace,
        log_ratio: Native,
        log_prob: Native,
        advantage: Native,
        **inputs: Native,
    ) -> Native:
        """See `Objective.gain`."""
        return advantage * xp.exp(log_ratio_of_gain(xp, log_ratio, advantage))

    def slope(self, log_ratio: Any, log_prob: Array, advantage: Array, **inputs: Any) -> Slope:
        """See `Objective.slope`: the gain again."""
        return self.gain(host, log_ratio, log_prob, advantage), None
