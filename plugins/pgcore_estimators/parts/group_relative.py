"""Advantages of whole episodes against those of their group, such as answers to one prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import BatchError, EstimatorError
from pgcore.interfaces.estimator import Evaluate
from pgcore.parts import Advantage
from pgcore.returns import by_group, centre, episode_rewards, leave_one_out_mean, normalise
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, NonNegative, check_fields, choice
from pgcore_estimators.terms import GROUP, Ddof, Group

__all__ = ["GroupRelative"]


@dataclass(frozen=True)
class GroupRelative(Advantage):
    """A = (R - mean) / (std + eps), one number for all steps of an episode of reward R.

    R is undiscounted. A group of equal rewards has A = 0 exactly.

    Attributes:
        scale: The standard deviation: the "group"'s, that of the "batch"'s rewards, or "none" for 1.
        eps: Added to the deviation.
        ddof: The deviation divides by the number of episodes less this.
        leave_one_out: Whether the mean is over the group's other episodes.
        mean: "episodes" to weigh them alike, "steps" to weigh each by its number of steps.
        lone: A of an episode that is alone in its group: "zero", "raw" for R, or "error".
        group: The episodes that are compared: "extra" for those with one number in the batch's
            extra `group`, "all" for all of them.

    Raises:
        EstimatorError: a field has a value it cannot take.

    Example:
        >>> advantage = pg.GroupRelative(scale="none", leave_one_out=True)
        >>> pg.estimator("policy_gradient", advantage=advantage, objective="score").quantities
        ('log_prob',)
    """

    scale: Annotated[str, choice("group", "batch", "none")] = "group"
    eps: NonNegative = 1e-8
    ddof: Ddof = 1
    leave_one_out: Flag = False
    mean: Annotated[str, choice("episodes", "steps")] = "episodes"
    lone: Annotated[str, choice("zero", "raw", "error")] = "zero"
    group: Group = "extra"
    extras: ClassVar = {"group": GROUP}
    name = "group_relative"
    sources = (
        "Shao et al. 2024, sec. 4.1.2, arXiv:2402.03300",
        "Kool, van Hoof and Welling 2019 (leave one out)",
        "Hao et al. 2025, arXiv:2505.23585 (mean of steps)",
    )

    def __post_init__(self) -> None:
        """Check the fields and their combination."""
        check_fields(self)
        if self.leave_one_out and self.mean == "steps":
            raise EstimatorError(
                f"{self}: expected mean='episodes' with leave_one_out, got 'steps'; choose one"
            )

    @property
    def unbiased(self) -> bool:
        """See `Advantage`; a group's own mean shrinks the gradient, and so does A = 0."""
        return self.leave_one_out and self.scale == "none" and self.lone != "zero"

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        totals = episode_rewards(batch, rewards)
        lengths = batch.episode_lengths

        def relative_of(numbers: Array) -> Array:
            members = numbers.astype(np.intp)
            return self._relative(totals[members], lengths[members])

        # By their numbers, since a group's mean may depend on lengths too.
        numbers = np.arange(batch.num_episodes, dtype=np.float64)
        relative = by_group(relative_of, numbers, batch, self.group)
        if self.scale == "batch":
            relative = self._scaled(relative, totals[batch.episode_weights > 0])
        return {"advantage": relative[batch.episode_of_step]}

    def _relative(self, rewards: Array, lengths: Array) -> Array:
        """Return [n] advantages of one group, not yet divided by the batch's deviation."""
        if len(rewards) == 1:
            return self._alone(rewards)
        if self.leave_one_out:
            centred = rewards - leave_one_out_mean(rewards)
        elif self.mean == "steps":
            # Of differences, so that equal rewards give exactly 0.
            shifted = rewards - rewards[0]
            centred = shifted - float(np.dot(lengths, shifted)) / int(lengths.sum())
        elif self.scale == "group":
            return normalise(rewards, ddof=self.ddof, eps=self.eps, noun="episode")
        else:
            centred = centre(rewards)
        return self._scaled(centred, rewards) if self.scale == "group" else centred

    def _alone(self, reward: Array) -> Array:
        """Return [1] the advantage of an episode without others."""
        if self.lone == "error":
            raise BatchError(
                f"{self}: expected at least 2 episodes in each group, got 1; collect more, or set "
                "lone='zero'"
            )
        return reward.copy() if self.lone == "raw" else 0.0 * reward

    def _scaled(self, centred: Array, rewards: Array) -> Array:
        """Return [n] centred rewards over the deviation of [m] rewards; equal ones stay 0."""
        spread = centre(rewards)
        square = float(np.vdot(spread, spread))
        deviation = math.sqrt(square / (len(rewards) - self.ddof)) if square > 0 else 0.0
        divisor = deviation + self.eps
        return centred / divisor if divisor > 0 else centred
