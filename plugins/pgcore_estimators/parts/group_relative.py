"""Rewards of episodes against the mean of their group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pgcore.returns import centre, leave_one_out_mean, weighted_centre
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Flag, choice
from pgcore_estimators.parts.grouped import Scaled

__all__ = ["GroupRelative"]


@dataclass(frozen=True)
class GroupRelative(Scaled):
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
        count_masked: Whether episodes without a step in the loss count in mean and deviation.
            Without, the batch's extra `loss_mask` names them, and they have A = 0.

    Raises:
        EstimatorError: a field has a value it cannot take.

    Example:
        >>> advantage = pg.GroupRelative(scale="none", leave_one_out=True)
        >>> pg.estimator("policy_gradient", advantage=advantage, objective="score").quantities
        ('log_prob',)
    """

    leave_one_out: Flag = False
    mean: Annotated[str, choice("episodes", "steps")] = "episodes"
    name = "group_relative"
    sources = (
        "Shao et al. 2024, sec. 4.1.2, arXiv:2402.03300",
        "Kool, van Hoof and Welling 2019 (leave one out)",
        "Hao et al. 2025, arXiv:2505.23585 (mean of steps)",
    )

    @property
    def unbiased(self) -> bool:
        """See `Advantage`; a group's own mean shrinks the gradient, and so does A = 0."""
        # Whether an episode counts may depend on its actions, and with it the others' baseline.
        plain = self.scale == "none" and self.lone != "zero" and self.count_masked
        return plain and self.leave_one_out

    def centred(self, rewards: Array, lengths: Array) -> Array:
        """See `Centred.centred`."""
        by_steps = self.mean == "steps"
        if self.leave_one_out:
            return rewards - leave_one_out_mean(rewards, lengths if by_steps else None)
        return weighted_centre(rewards, lengths) if by_steps else centre(rewards)
