"""The loss as a function, `pgcore.loss`, on a backend's arrays beside the reference of a case.

Episodes lie in padded rows, [E, T], with a hole before each and another behind most; quantities are NaN there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, cast

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.layout import Layout
from pgcore.data.native import Arrays
from pgcore.function.laid_out import LaidOutSignals
from pgcore.function.loss import Loss, loss
from pgcore.function.signals import laid_out_signals
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.reduction import THE_BATCH
from pgcore.validation.arrays import Array
from pgcore_check.stages.truth import Truth

__all__ = ["counted_steps", "evaluations_of", "function_results", "function_signals"]


class PolicyNeededError(Exception):
    """Signals that read a policy's scores, and have no function."""


class Asked:
    """Evaluations of a policy that keep what they were asked for; see `Evaluate`."""

    def __init__(self, evaluate: Any, kept: dict[str, Array], prefix: str = "") -> None:
        """Keep the source, and where results go by name."""
        self.evaluate, self.kept, self.prefix = evaluate, kept, prefix

    def __call__(self, *names: str) -> Mapping[str, Array]:
        """Return and keep the evaluations."""
        found = self.evaluate(*names)
        self.kept.update({self.prefix + name: value for name, value in found.items()})
        return found

    def scores(self, step_weights: Array | None = None) -> NoReturn:
        """Refuse: only a policy has scores."""
        raise PolicyNeededError

    @property
    def target(self) -> Asked:
        """The target's, kept by names of their own."""
        return Asked(self.evaluate.target, self.kept, "target_")


def evaluations_of(estimator: Estimator, batch: Batch, evaluate: Any) -> dict[str, Array]:
    """Return what an estimator's signals evaluate, by the keywords of `pgcore.signals`."""
    kept: dict[str, Array] = {}
    with np.errstate(all="ignore"):
        estimator.signals(batch, cast("Any", Asked(evaluate, kept)))
    return kept


def rows_of(batch: Batch) -> Layout:
    """Return a layout of padded rows with a hole before each episode."""
    length = int(batch.episode_lengths.max()) + 1
    positions = batch.episode_of_step * length + 1 + batch.step_in_episode
    return Layout((batch.num_episodes, length), positions)


def counted_steps(truth: Truth) -> Array:
    """Return [B] bool, the steps that count in the loss: no padding, and not left out."""
    shared = truth.shared_signals
    return shared.padding_weights > 0 if shared.padded else truth.real


def function_signals(truth: Truth, arrays: Arrays) -> dict[str, Array] | None:
    """Return the signals and weights of `pgcore.signals`, flat, from recorded evaluations.

    None where the estimator's signals need a policy itself.
    """
    batch, layout = truth.batch, rows_of(truth.batch)
    try:
        given = evaluations_of(truth.estimator, batch, truth.evaluation)
    except PolicyNeededError:
        return None
    with arrays.computing(truth.dtype.name):
        like = arrays.native(np.zeros(0, truth.dtype), None)
        fields = {**batch.__dict__, "layout": layout, "like": like}
        laid_out = {
            name: value if "final_" in name else layout.spread(value, np.nan)
            for name, value in given.items()
        }
        found = laid_out_signals(truth.estimator, Batch.trusted(fields), laid_out, THE_BATCH)
        values = {**found.values, "weights": found.weights}
        return {name: layout.flat(arrays.host(value)) for name, value in values.items()}


@dataclass(frozen=True)
class LossOf:
    """`pgcore.loss` of one estimator; equal ones are compiled once."""

    estimator: Estimator

    def __call__(self, signals: LaidOutSignals, **quantities: Any) -> Loss:
        """Return the loss."""
        return loss(self.estimator, signals, **quantities)


def function_results(
    truth: Truth, arrays: Arrays, *, compiled: bool
) -> tuple[dict[str, Array], list[str]]:
    """Return the loss's terms and derivatives by quantity, flat, at the truth's shared signals.

    Args:
        truth: The reference.
        arrays: The framework's.
        compiled: Whether the framework compiles the loss.

    Returns:
        The arrays by name, and the names of those that are not exactly 0 where no step is.
    """
    layout, shared = rows_of(truth.batch), truth.shared_signals
    outside = ~layout.steps
    rows, length = layout.shape
    with arrays.computing(truth.dtype.name):

        def native(value: Array, fill: float) -> Any:
            return arrays.native(layout.spread(value, fill), None)

        values = {
            name: native(value, rows if name == "episode" else 0)
            for name, value in shared.values.items()
        }
        real = native(counted_steps(truth), 0)
        signals = LaidOutSignals(values, native(shared.weights, 0), real, arrays, rows=length > 0)
        given = {
            name: native(expected.exact.astype(truth.dtype), np.nan)
            for name, expected in truth.quantities.items()
        }
        run = LossOf(truth.estimator)
        result, slopes = arrays.differentiated(run, signals, given, compiled=compiled)
        found = {"term": arrays.host(result.terms)}
        found |= {f"d {name}": arrays.host(slope) for name, slope in slopes.items()}
    wrong = [name for name, value in found.items() if not (value[outside] == 0).all()]
    return {name: layout.flat(value) for name, value in found.items()}, wrong
