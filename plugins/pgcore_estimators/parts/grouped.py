"""The bases of advantages of whole episodes against those of their group."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import BatchError, NonFiniteError
from pgcore.interfaces.estimator import Evaluate
from pgcore.interfaces.extras import Extra
from pgcore.parts import Advantage
from pgcore.returns import by_group, centre, episode_rewards, unmasked_episodes
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, NonNegative, choice
from pgcore_estimators.terms import GROUP, Ddof, Group

__all__ = ["Centred", "Grouped", "Scaled"]


def example_loss_mask(batch: Batch, *_: object) -> Array:
    """Return [B] bool: all steps but those of a fifth episode, whose group has two others."""
    return batch.episode_of_step != 4


LOSS_MASK = Extra(
    "[B] bool",
    "True for the steps that count in the loss",
    example_loss_mask,
    when=lambda advantage: not advantage.count_masked,
    advice="add it, or set count_masked=True to compare all episodes",
)


@dataclass(frozen=True)
class Grouped(Advantage):
    """An advantage relative to the other episodes of a group, such as answers to one prompt.

    Attributes:
        lone: A of an episode that is alone in its group: "zero", "raw" for no baseline, or "error".
        group: The episodes that are compared: "extra" for those with one number in the batch's
            extra `group`, "all" for all of them.
        count_masked: Whether episodes without a step in the loss count in the baseline. Without,
            the batch's extra `loss_mask` names them, and they have A = 0. The mask `loss` takes
            them away before the baseline, which is then without them in any case. The mask
            `truncated` counts them.
    """

    lone: Annotated[str, choice("zero", "raw", "error")] = field(default="zero", kw_only=True)
    group: Group = field(default="extra", kw_only=True)
    count_masked: Flag = field(default=True, kw_only=True)
    extras: ClassVar = {"group": GROUP, "loss_mask": LOSS_MASK}

    def counted(self, batch: Batch) -> Array:
        """Return [E] bool, the episodes that count in the baseline."""
        real = batch.episode_weights > 0
        return real if self.count_masked else real & unmasked_episodes(batch)


@dataclass(frozen=True)
class Centred(Grouped):
    """A number of each episode, less a baseline of its group; see `Grouped`."""

    def by_group(self, rewards: Array, batch: Batch) -> Array:
        """Return [E] results of `of_group`; 0 for episodes that do not count."""
        lengths = batch.episode_lengths.astype(np.float64)
        members = None if self.count_masked else self.counted(batch)
        return by_group(self.of_group, rewards, batch, self.group, lengths, members=members)

    def of_group(self, rewards: Array, lengths: Array) -> Array:
        """Return [n] rewards of one group's episodes less their baseline; equal ones give 0.

        Args:
            rewards: [n] float64.
            lengths: [n] float64. Steps of each episode.

        Raises:
            BatchError: one episode alone, and `lone` is "error".
        """
        if len(rewards) == 1:
            return self._alone(rewards)
        # A sum's rounding would otherwise come out as a difference.
        if (rewards == rewards[0]).all():
            return np.zeros_like(rewards)
        return self.centred(rewards, lengths)

    @abstractmethod
    def centred(self, rewards: Array, lengths: Array) -> Array:
        """Return [n] rewards of 2 episodes or more, not all equal, less their baseline."""

    def _alone(self, reward: Array) -> Array:
        """Return [1] the advantage of an episode without others."""
        if self.lone == "error":
            raise BatchError(
                f"{self}: expected at least 2 episodes in each group, got 1; collect more, or set "
                "lone='zero'"
            )
        return reward.copy() if self.lone == "raw" else 0.0 * reward


@dataclass(frozen=True)
class Scaled(Centred):
    """A = (R - b) / (s + eps), one number for all steps of an episode of undiscounted reward R.

    Attributes:
        scale: s: the "group"'s standard deviation, that of the "batch"'s rewards, or "none" for 1.
        eps: Added to the deviation.
        ddof: The deviation divides by the number of episodes less this.
        lone, group, count_masked: See `Grouped`.
    """

    scale: Annotated[str, choice("group", "batch", "none")] = "group"
    eps: NonNegative = 1e-8
    ddof: Ddof = 1

    def estimate(self, batch: Batch, rewards: Array, evaluate: Evaluate) -> Mapping[str, Array]:
        """See `Advantage.estimate`."""
        relative = self.relative(episode_rewards(batch, rewards), batch)
        return {"advantage": relative[batch.episode_of_step]}

    def relative(self, rewards: Array, batch: Batch) -> Array:
        """Return [E] advantages of [E] rewards."""
        relative = self.by_group(rewards, batch)
        if self.scale == "batch":
            relative = self._scaled(relative, rewards[self.counted(batch)])
        return relative

    def of_group(self, rewards: Array, lengths: Array) -> Array:
        """See `Centred.of_group`; divided by the group's deviation where `scale` says so."""
        centred = super().of_group(rewards, lengths)
        if self.scale == "group" and len(rewards) > 1:
            centred = self._scaled(centred, rewards)
        return centred

    def spread(self, rewards: Array) -> float:
        """Return s of [n] rewards, their standard deviation; 0 for equal ones, and alone.

        Raises:
            NonFiniteError: the variance overflows.
        """
        centred = centre(rewards) if len(rewards) > 1 else np.zeros(1)
        square = float(np.vdot(centred, centred))
        if not math.isfinite(square):
            raise NonFiniteError(
                f"{self}: expected rewards with a finite variance, got "
                f"{np.abs(rewards).max()} at episode {np.abs(rewards).argmax()}; scale them down"
            )
        return math.sqrt(square / (len(rewards) - self.ddof)) if square > 0 else 0.0

    def _scaled(self, centred: Array, rewards: Array) -> Array:
        """Return [n] centred rewards over the spread of [m] rewards; without one as they are."""
        spread = self.spread(rewards)
        return centred / (spread + self.eps) if spread > 0 else centred
