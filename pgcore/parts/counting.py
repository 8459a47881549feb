"""The steps that count in a loss, under masks of whole steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.device_array import as_array
from pgcore.data.selection import Selection
from pgcore.errors import BatchError
from pgcore.interfaces.estimator import Evaluate
from pgcore.parts.masks import StepMask
from pgcore.validation.arrays import Array

__all__ = ["Counting", "SelectedEvaluate"]


class Counting:
    """The steps of one batch that are there, and those among them that count.

    Attributes:
        present: The steps without padding, and without those that early masks leave out.
        kept: [b] bool, those present steps that no other mask leaves out.
        counted: The steps that count; all that are present where none does.
    """

    def __init__(self, masks: tuple[StepMask, ...], batch: Batch) -> None:
        """Choose the steps.

        Raises:
            BatchError: early masks leave no step.
        """
        real = np.ones(batch.num_steps, np.bool_)
        if batch.step_weights is not None:
            real = batch.step_weights > 0
        self.present = Selection(batch, real)
        for mask in masks:
            if mask.early:
                self.present = Selection(batch, self._spread(mask))
                if not self.present.steps.any():
                    raise BatchError(
                        f"{mask}: expected a step that it keeps, got none; collect other episodes, "
                        "or leave the mask out"
                    )
        part = self.present.batch
        self.kept = np.ones(part.num_steps, np.bool_)
        for mask in masks:
            if not mask.early:
                self.kept &= mask.keeps(part)
        # No statistic is of no steps.
        self.counted = Selection(batch, self.steps) if self.kept.any() else self.present

    @property
    def steps(self) -> Array:
        """[B] bool, the steps that count."""
        return self.present.spread(self.kept)

    @property
    def stretch(self) -> Array:
        """[B] float64: 0 at steps left out, else the steps of the episode over those that count.

        A mean over an episode times this is the mean over the steps that count.
        """
        steps = self.steps
        lengths = Selection(self.present.whole, steps).lengths
        ratio = self.present.whole.episode_lengths / np.maximum(lengths, 1)
        return steps * ratio[self.present.whole.episode_of_step]

    def chosen(self, signals: Mapping[str, Array]) -> dict[str, Array]:
        """Return signals of the steps `counted` from those of the present steps."""
        steps = self.counted.steps[self.present.steps]
        return {name: as_array(x)[steps] for name, x in signals.items()}

    def spread(self, signals: Mapping[str, Array]) -> dict[str, Array]:
        """Return [B, ...] signals from those of `counted`, 0 where a step does not count."""
        if not self.kept.any():
            signals = {name: np.zeros_like(x) for name, x in signals.items()}
        return {name: self.counted.spread(as_array(x)) for name, x in signals.items()}

    def _spread(self, mask: StepMask) -> Array:
        return self.present.spread(mask.keeps(self.present.batch))


@dataclass(frozen=True)
class SelectedEvaluate:
    """The current policy at the selected steps; see `Evaluate`."""

    evaluate: Evaluate
    selection: Selection

    def __call__(self, *names: str) -> Mapping[str, Array]:
        """See `Evaluate.__call__`."""
        steps, episodes = self.selection.steps, self.selection.episodes
        return {
            name: array[episodes if name.startswith("final_") else steps]
            for name, array in self.evaluate(*names).items()
        }

    @property
    def target(self) -> SelectedEvaluate:
        """See `Evaluate.target`."""
        return SelectedEvaluate(self.evaluate.target, self.selection)

    def scores(self, step_weights: Array | None = None) -> Array:
        """See `Evaluate.scores`."""
        steps = self.selection.steps
        weights = np.ones(np.count_nonzero(steps)) if step_weights is None else step_weights
        return self.evaluate.scores(self.selection.spread(weights))[self.selection.episodes]
