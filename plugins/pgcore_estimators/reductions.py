"""Further reductions: means over groups, constant divisors, sums, and weights of the user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.interfaces.extras import Extra
from pgcore.interfaces.reduction import (
    THE_BATCH,
    AnyReduction,
    Reduction,
    Totals,
    real_steps,
)
from pgcore.returns.groups import group_ranks
from pgcore.validation.arrays import Array, check_rows
from pgcore.validation.fields import Positive
from pgcore_estimators.terms import Group, example_groups

__all__ = ["ConstantDivisor", "GroupMean", "StepSum", "WeightedSteps"]


def example_weights(_: Batch, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return [B] numbers between a half and two."""
    return np.exp2(rng.uniform(-1.0, 1.0, shape))


@dataclass(frozen=True)
class GroupMean(Reduction):
    """The mean over a group's steps, then over groups: a prompt's tokens, then prompts.

    All episodes of a group belong in one part of a whole.

    Attributes:
        group: "extra" for groups of the episodes with one number in the batch's extra `group`, "all"
            for one group of all.

    Example:
        >>> batch = pg.Batch(observations=np.eye(3), actions=[0, 1, 0], rewards=[1.0, 0.0, 2.0],
        ...                  episode_lengths=[1, 2], terminated=[True, True],
        ...                  extras={"group": [5, 8, 8]})
        >>> pg.GroupMean().weights(batch).tolist()
        [0.5, 0.25, 0.25]
    """

    group: Group = "extra"
    extras: ClassVar = {
        "group": Extra(
            "[B] integer",
            "one number for all steps of the episodes of a group",
            example_groups,
            when=lambda reduction: reduction.group == "extra",
            advice="number the groups of episodes, or choose the reduction 'step' for one group",
        )
    }
    name: ClassVar[str] = "group_step"

    def weights(self, batch: Batch, totals: Totals = THE_BATCH) -> Array:
        """See `Reduction.weights`."""
        real = real_steps(batch)
        number = group_ranks(batch, self.group)[batch.episode_of_step]
        # A group of padding alone has no steps, and its share is multiplied by 0 below.
        steps = np.bincount(number, real)
        share = 1.0 / np.maximum(steps, 1.0) / totals.whole("groups", int((steps > 0).sum()))
        return real * share[number]


@dataclass(frozen=True)
class ConstantDivisor(Reduction):
    """The sum over all steps, divided by the number of episodes times a constant.

    Attributes:
        divisor: The constant, such as the largest length of an answer.

    Source: Liu et al. 2025, arXiv:2503.20783, Dr. GRPO as published in code.

    Example:
        >>> pg.estimator("reinforce", reduction={"name": "constant", "divisor": 1024}).reduction
        ConstantDivisor(divisor=1024.0)
    """

    divisor: Positive
    name: ClassVar[str] = "constant"

    def weights(self, batch: Batch, totals: Totals = THE_BATCH) -> Array:
        """See `Reduction.weights`."""
        episodes = totals.whole("episodes", int(batch.episode_weights.sum()))
        return real_steps(batch) / (episodes * self.divisor)


@dataclass(frozen=True)
class StepSum(Reduction):
    """The sum over all steps; totals change nothing.

    Example:
        >>> pg.estimator("reinforce", reduction="sum").reduction
        StepSum()
    """

    name: ClassVar[str] = "sum"

    def weights(self, batch: Batch, totals: Totals = THE_BATCH) -> Array:
        """See `Reduction.weights`."""
        return np.array(real_steps(batch))


@dataclass(frozen=True)
class WeightedSteps(Reduction):
    """Another reduction's weights times the batch's extra `weights`, at least 0.

    For the importance weights of prioritised replay; with the inner reduction "sum" they are the
    weights of the loss themselves.

    Attributes:
        inner: The other reduction.

    Example:
        >>> pg.WeightedSteps("sum").inner
        StepSum()
    """

    inner: AnyReduction = Reduction.STEP
    extras: ClassVar = {
        "weights": Extra(
            "[B] number", "the weight of each step's term, at least 0", example_weights
        )
    }
    name: ClassVar[str] = "weighted"

    def weights(self, batch: Batch, totals: Totals = THE_BATCH) -> Array:
        """See `Reduction.weights`.

        Raises:
            BatchError: a weight is negative.
        """
        weights = batch.extras["weights"]
        where, advice = f"{type(batch).__name__}.extras['weights']", "leave a step out with 0"
        check_rows(where, "numbers of at least 0", weights >= 0, weights, advice)
        return self.inner.weights(batch, totals) * weights

    @property
    def used_extras(self) -> dict[str, Extra]:
        """See `Reduction.used_extras`; those of the other reduction too."""
        return self.inner.used_extras | super().used_extras
