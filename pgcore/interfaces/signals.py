"""Signals: the constants of a loss, computed from a batch once and sliced with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pgcore.data.batch import Batch, Index
from pgcore.errors import EstimatorError, NonFiniteError, ShapeError
from pgcore.interfaces.estimator import KLS, QUANTITIES, Estimator, Evaluate
from pgcore.validation.arrays import Array, first_row, row_not_finite

__all__ = ["Signals", "check_all_finite", "check_names", "check_reference"]


class Signals:
    """An estimator's signals for a batch, in a policy's dtype, with the reduction's weights; sliced with the batch.

    Attributes:
        values: [B, ...] arrays by name.
        weights: [B] weight of each step's term in the loss; 0 for padding.
        padded: Whether any step is padding.
    """

    __slots__ = ("padded", "values", "weights")

    def __init__(self, values: dict[str, Array], weights: Array, *, padded: bool) -> None:
        """Keep the arrays as they are."""
        self.values = values
        self.weights = weights
        self.padded = padded

    def __getitem__(self, name: str) -> Array:
        """Return one signal."""
        return self.values[name]

    def steps(self, index: Index) -> Signals:
        """Return the signals of the chosen steps; see `Batch.steps`.

        Weights are scaled by B / len(index), padding left out of both, so that the mean over the equal parts of a partition is the
        whole batch's gradient, and a `STEP` minibatch is a mean over its own steps.

        Raises:
            EstimatorError: a step number is out of range, or the surrogate sees whole episodes.
        """
        if "episode" in self.values:
            raise EstimatorError(
                "Signals.steps: expected the signals of a surrogate that sees single steps, got those of one that sees whole episodes; "
                "slice with Batch.episodes and Signals.episodes"
            )
        try:
            weights = self.weights[index]
        except IndexError as error:
            raise EstimatorError(
                f"Signals.steps: expected step numbers in [0, {len(self.weights)}), got others ({error}); check the index"
            ) from error
        size = np.count_nonzero if self.padded else len
        scale = size(self.weights) / max(size(weights), 1)
        return Signals(
            {name: value[index] for name, value in self.values.items()},
            weights * scale,
            padded=self.padded,
        )

    def episodes(self, batch: Batch, index: Index) -> Signals:
        """Return the signals of the chosen episodes, for `batch.episodes(index)`.

        Weights are scaled by E / len(index), padding left out of both; see `steps`.

        Args:
            batch: The one that the signals are of.
            index: Episode numbers in [0, E), a slice, or a [E] bool mask.

        Raises:
            BatchError: an episode number is out of range, no episode is chosen, or the index is not one-dimensional.
        """
        numbers, steps = batch.episode_steps(index)
        real = batch.episode_weights
        scale = np.count_nonzero(real) / max(np.count_nonzero(real[numbers]), 1)
        values = {name: value[steps] for name, value in self.values.items()}
        if "episode" in values:
            values["episode"] = np.repeat(np.arange(len(numbers)), batch.episode_lengths[numbers])
        return Signals(values, self.weights[steps] * scale, padded=self.padded)

    @staticmethod
    def of(
        estimator: Estimator, batch: Batch, evaluate: Evaluate, dtype: np.dtype[Any], width: int
    ) -> Signals:
        """Compute, check and cast an estimator's signals; `width` is that of the head, and so of a `reference`.

        Raises:
            EstimatorError: a keyword of the surrogate is neither a quantity nor a signal, or a signal has the wrong length.
            NonFiniteError: a signal is NaN or infinite; names it and the step.
        """
        with np.errstate(all="ignore"):  # what overflows is reported below, by name and step
            computed = {
                name: np.asarray(value)
                for name, value in estimator.signals(batch, evaluate).items()
            }
        if estimator.sees_episodes:
            computed["episode"] = batch.episode_of_step
        check_names(estimator, computed)
        values: dict[str, Array] = {}
        for name, value in computed.items():
            if value.ndim == 0 or len(value) != batch.num_steps:
                raise EstimatorError(
                    f"{estimator.name}.signals[{name!r}]: expected {batch.num_steps} rows, one for each step, got shape {list(value.shape)}; "
                    "return one row for each step"
                )
            with np.errstate(over="ignore"):
                values[name] = (
                    value.astype(dtype, copy=False)
                    if value.dtype.kind == "f" or name == "reference"
                    else value
                )
            if name == "reference":  # where an action is masked it holds -inf
                check_reference(f"{estimator.name}.signals['reference']", value, width)
            else:
                check_all_finite(f"{estimator.name}.signals[{name!r}]", values[name])
        return Signals(
            values,
            estimator.reduction.weights(batch).astype(dtype),
            padded=batch.step_weights is not None,
        )


def check_names(estimator: Estimator, signals: Mapping[str, Array]) -> None:
    """Raise EstimatorError unless every keyword of the surrogate is a quantity or a signal."""
    missing = [
        name for name in estimator.keywords if name not in QUANTITIES and name not in signals
    ]
    if missing:
        raise EstimatorError(
            f"{estimator.name}.surrogate: expected keywords that are quantities ({', '.join(QUANTITIES)}) or signals "
            f"({', '.join(sorted(signals)) or 'none'}), got {', '.join(missing)}; return the missing signals or rename the keywords"
        )
    if not KLS.isdisjoint(estimator.quantities) and "reference" not in signals:
        raise EstimatorError(
            f"{estimator.name}.signals: expected `reference`, which a KL measures from, got none; return it as a signal"
        )


def check_reference(where: str, reference: Array, width: int) -> None:
    """Raise ShapeError unless a reference distribution's description has the head's width."""
    if reference.ndim != 2 or reference.shape[1] != width:
        raise ShapeError(
            f"{where}: expected shape [B, {width}], the head's description of a distribution, got {list(reference.shape)}; "
            "take it from `policy.evaluate(batch, ('distribution',))` of the reference policy"
        )
    bad = np.isnan(reference) | (reference == np.inf)
    if bad.any():
        step = first_row(bad)
        raise NonFiniteError(
            f"{where}: expected a distribution at every step, got NaN or infinity at step {step}; mend that step"
        )


def check_all_finite(where: str, value: Array, noun: str = "step") -> None:
    """Raise NonFiniteError at the first row that is NaN or infinite."""
    row = row_not_finite(value)
    if row is not None:
        raise NonFiniteError(
            f"{where}: expected finite numbers, got {value[row]} at {noun} {row}; look at that {noun}'s observations, rewards and values"
        )
