"""Minibatches of whole arrays on a policy's device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from pgcore.autodiff.inputs import Inputs, each
from pgcore.data.native import Arrays
from pgcore.interfaces.estimator import Estimator
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Gather", "finalised", "minibatch"]


class Gather(NamedTuple):
    """The way from whole arrays to a minibatch of `N` steps, padding included; native but for `steps`.

    Attributes:
        steps: Number of steps without padding.
        rows: [N] integer. Rows of the batch's arrays; None for all of them.
        signal_rows: [N] integer. Those of the signals; None for all of them.
        scales: Factors of the weights, in the order of multiplication.
        standards: Constants of `Estimator.standards`.
        padding: [B] the whole's padding weights, for `standards` alone; None without padding.
        renumbered: [N] signals by name that are the minibatch's own, as its episodes' numbers.
    """

    steps: int
    rows: Native
    signal_rows: Native
    scales: tuple[Native, ...]
    standards: Mapping[str, tuple[Native, ...]]
    padding: Native
    renumbered: Mapping[str, Native]

    @property
    def unneeded(self) -> bool:
        """Whether the whole is the minibatch as it is."""
        return self.rows is self.signal_rows is None and not self.standards and not self.renumbered


def minibatch(
    xp: ArrayNamespace,
    take: Callable[[Native, Native], Native],
    real: Callable[[Native, int], Native | None],
    whole: Inputs,
    gather: Gather,
) -> Inputs:
    """Return the inputs of a minibatch: the same numbers as NumPy's slices have.

    Args:
        xp: The backend's namespace.
        take: Returns rows of an array.
        real: Returns [N] bool, true for the first `steps`, of [N] weights and `steps`; None where
            all of them are known to be.
        whole: The arrays of the whole batch.
        gather: The minibatch.
    """
    rows, signal_rows = gather.rows, gather.signal_rows
    observations, actions, mask, signals, weights = whole
    if rows is not None:
        observations = each(lambda array: take(array, rows), observations)
        actions = take(actions, rows)
        mask = None if mask is None else take(mask, rows)
    padding = gather.padding
    if signal_rows is not None:
        signals = {name: take(value, signal_rows) for name, value in signals.items()}
        weights = take(weights, signal_rows)
        padding = None if padding is None else take(padding, signal_rows)
        for scale in gather.scales:
            weights = weights * scale
        # Rows of padding repeat the last step.
        marks = real(weights, gather.steps)
        weights = weights if marks is None else xp.where(marks, weights, 0.0)
    for name, (first, mean, divisor) in gather.standards.items():
        value = ((signals[name] - first) - mean) / divisor
        signals = {
            **signals,
            name: value if padding is None else xp.where(padding > 0, value, 0.0),
        }
    return Inputs(observations, actions, mask, {**signals, **gather.renumbered}, weights)


def finalised(
    arrays: Arrays, estimator: Estimator, signals: dict[str, Native], real: Native
) -> dict[str, Native]:
    """Return the signals of a minibatch as `Estimator.finalise_on` returns them.

    Args:
        arrays: The framework's.
        estimator: Whose signals.
        signals: [N, ...] by name.
        real: [N] bool, False at padding; None without any.
    """
    given = dict(signals)
    if real is not None:
        # Rows of padding repeat the last step, and `finalise_on` takes zeros there.
        for name, value in signals.items():
            if "float" in arrays.dtype(value):
                marks = arrays.reshape(real, (-1, *[1] * (len(value.shape) - 1)))
                given[name] = arrays.xp.where(marks, value, 0.0)
    changed = estimator.finalise_on(arrays, {**given}, real)
    return {
        name: signals[name] if value is given.get(name) else value
        for name, value in changed.items()
    }
