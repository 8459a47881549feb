"""Masks of whole steps: the loss mask, groups of equal rewards, and truncated answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np

from pgcore.data.batch import Batch
from pgcore.errors import BatchError
from pgcore.interfaces.extras import Extra
from pgcore.parts import StepMask
from pgcore.parts.composition import refusal
from pgcore.returns import by_group, episode_rewards
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, choice
from pgcore_estimators.terms import GROUP, Group

__all__ = ["LossMask", "TruncatedEpisodes", "ZeroVariance"]


def example_mask(batch: Batch, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return [B] bool: most steps, and the first of each episode."""
    # An audit makes episodes of single rows, any of which may come alone.
    if batch.num_episodes == 1:
        return np.ones(shape, np.bool_)
    mask = rng.random(shape) < 0.7
    mask[batch.episode_starts] = True
    return mask


@dataclass(frozen=True)
class LossMask(StepMask):
    """Counts the steps where the batch's extra `loss_mask` is True, such as a policy's own tokens.

    Others are no steps, such as a tool's tokens inside an answer: returns, advantages, lengths and
    ratios are of the steps that count alone. A reward at another step goes to the last that counts
    before it, or to the episode's first. `log_probs`, `values` and extras may hold anything there.

    Attributes:
        empty: The treatment of an episode without a step that counts: "error", or "leave_out" of
            the loss, its denominators and the baselines. The mask `truncated` leaves answers out
            of the loss alone.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    empty: Annotated[str, choice("error", "leave_out")] = "error"
    extras: ClassVar = {
        "loss_mask": Extra(
            "[B] bool",
            "true for the steps of the loss",
            example_mask,
            advice="add it, or leave the mask 'loss' out",
        )
    }
    name = "loss"

    @property
    def early(self) -> bool:
        """See `StepMask`."""
        return True

    def keeps(self, batch: Batch) -> Array:
        """See `StepMask.keeps`.

        Raises:
            BatchError: `empty` is "error", and an episode has no step that counts.
        """
        mask = batch.extras["loss_mask"]
        empty = ~np.logical_or.reduceat(mask, batch.episode_starts)
        if self.empty == "error" and empty.any():
            raise BatchError(
                f"{type(batch).__name__}.extras['loss_mask']: expected a step that counts in every episode, got "
                f"none in episode {int(empty.argmax())} of those without padding; leave that "
                "episode out of the batch, or set empty='leave_out'"
            )
        return mask


@dataclass(frozen=True)
class ZeroVariance(StepMask):
    """Leaves out the episodes of groups whose rewards are all equal, one alone included.

    Their advantages are 0; without this mask they still count in the denominators and in penalties.
    Rewards are the batch's, summed over an episode. A batch of such groups alone has the loss 0.

    Attributes:
        group: See the advantage `group_relative`.

    Raises:
        EstimatorError: a field has a value it cannot take, or the advantage is a critic's.
    """

    group: Group = "extra"
    extras: ClassVar = {"group": GROUP}
    name = "zero_variance"
    sources = ("Yu et al. 2025, sec. 3.2, arXiv:2503.14476 (dynamic sampling)",)

    def meet(self, parts: Any) -> None:
        """See `Part.meet`: a critic's advantage is not 0 in a group of equal rewards."""
        advantage = parts.advantage
        if advantage.needs_critic and "group" not in advantage.used_extras:
            raise refusal(self, "an advantage over groups", advantage, "leave the mask out")

    def keeps(self, batch: Batch) -> Array:
        """See `StepMask.keeps`."""
        # The steps that are left decide shapes, which are the host's.
        varied = np.asarray(by_group(differ, episode_rewards(batch), batch, self.group))
        return varied[batch.episode_of_step] > 0


@dataclass(frozen=True)
class TruncatedEpisodes(StepMask):
    """Leaves out the episodes that did not terminate, such as answers at the length limit.

    Attributes:
        count_masked: Whether their rewards count in the baselines of the others.

    Raises:
        EstimatorError: a field has a value it cannot take.
    """

    count_masked: Flag = True
    name = "truncated"
    sources = ("Yu et al. 2025, sec. 3.4, arXiv:2503.14476 (overlong filtering)",)

    @property
    def early(self) -> bool:
        """See `StepMask`."""
        return not self.count_masked

    def keeps(self, batch: Batch) -> Array:
        """See `StepMask.keeps`."""
        return batch.terminated[batch.episode_of_step]


def differ(rewards: Array) -> Array:
    """Return [n] ones where [n] rewards are not all equal, else zeros."""
    return np.full_like(rewards, float(rewards.max() > rewards.min()))
