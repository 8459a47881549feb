"""The loss of one batch: policy, estimator, batch and signals, checked where they meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from pgcore.data.batch import Batch
from pgcore.data.episodes import ensure_episodes
from pgcore.data.spec import PolicySpec
from pgcore.data.spec_checks import check_observations
from pgcore.errors import EstimatorError
from pgcore.interfaces.estimator import Estimator, ensure_estimator
from pgcore.interfaces.signals import Signals, check_names, check_reference, ensure_signals
from pgcore.validation.arrays import Array, is_host, put_off

__all__ = ["SummedSurrogate", "Surrogate", "check_batch"]


class Surrogate:
    """An estimator bound to one batch and its signals: the loss that `Policy.gradient` differentiates.

    Its existence proves that they fit policies of its spec, so that nothing checks them again.
    """

    __slots__ = (
        "__weakref__",
        "_padding",
        "batch",
        "estimator",
        "signals",
        "spec",
        "values",
        "weights",
    )

    def __init__(
        self, spec: PolicySpec, estimator: Estimator, batch: Batch, signals: Signals
    ) -> None:
        """Check that they fit, and finalise the signals; see `pgcore.gradient` for the errors."""
        ensure_estimator("gradient estimator", estimator)
        ensure_signals("gradient signals", signals)
        estimator.check_fits(spec)
        check_batch(spec, batch)
        if len(signals.weights) != batch.num_steps:
            raise EstimatorError(
                f"gradient: expected signals for {batch.num_steps} steps, got them for "
                f"{len(signals.weights)}; slice batch and signals alike"
            )
        # The names were checked where the signals were computed, unless for another estimator.
        if not estimator.signal_names <= signals.names:
            check_names(estimator, signals.names)
        self.spec = spec
        self.estimator = estimator
        self.batch = batch
        self.signals = signals
        self._padding = signals.padding_weights if signals.padded else None
        if is_host(signals.weights):
            self.weights = signals.weights  # [B] of each term in the loss
        if not signals.on_device:
            # [B, ...] by name. An estimator may write into the dict that it gets.
            self.values = estimator.finalise({**signals.values}, self._padding)

    def __getattr__(self, name: str) -> Any:
        """Return values or weights on a device, those finalised by NumPy, at their first use."""
        if name == "weights":
            self.weights = np.asarray(self.signals.weights)
            return self.weights
        if name != "values":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        values = {name: np.asarray(value) for name, value in self.signals.values.items()}
        self.values = self.estimator.finalise(values, self._padding)
        return self.values

    @property
    def standards(self) -> Mapping[str, tuple[float, float, float]] | None:
        """See `Estimator.standards`, of these signals."""
        return self.estimator.standards(self.signals.value, self._padding)

    @property
    def real(self) -> Array:
        """[B] bool, False for padding and steps left out; a real step may weigh 0."""
        if self._padding is None:
            return np.ones(len(self.weights), np.bool_)
        return self._padding > 0


class SummedSurrogate(Surrogate):
    """The sum of several losses of one estimator, on one policy: a loss of all their steps.

    Attributes:
        parts: The losses, in order. Their arrays are joined when they are read, not before.
    """

    def __init__(self, parts: Sequence[Surrogate]) -> None:
        """Keep the losses."""
        self.parts = tuple(parts)
        self.spec, self.estimator = self.parts[0].spec, self.parts[0].estimator

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Copy the losses alone: joined arrays are made anew."""
        return type(self), (self.parts,)

    @cached_property
    def batch(self) -> Batch:
        """The episodes of all losses; groups of different losses stay apart."""
        return Batch.concatenate([part.batch for part in self.parts])

    @cached_property
    def weights(self) -> Array:
        """[B] of all losses' terms."""
        return np.concatenate([part.weights for part in self.parts])

    @property
    def real(self) -> Array:
        """See `Surrogate.real`."""
        return np.concatenate([part.real for part in self.parts])

    @cached_property
    def values(self) -> dict[str, Array]:
        """[B, ...] finalised signals by name, episodes numbered throughout."""
        values: dict[str, Array] = {}
        for name in self.parts[0].values:
            values[name] = np.concatenate([part.values[name] for part in self.parts])
        if "episode" in values:
            sizes = [len(part.weights) for part in self.parts]
            counts = np.cumsum([0] + [part.batch.num_episodes for part in self.parts[:-1]])
            values["episode"] = values["episode"] + np.repeat(counts, sizes)
        return values


def check_batch(spec: PolicySpec, batch: Batch) -> None:
    """Raise ShapeError or BatchError unless a batch fits a spec; its own minibatches fit too."""
    ensure_episodes("batch", batch)
    if batch.fits(spec):
        return
    # Parts of a batch on a device are not read.
    checked = batch if batch.root.device is None else batch.root
    with put_off() as checks:
        check_observations("Batch.observations", spec, checked.held("observations"))
        spec.head.check_actions(checked.held("actions"), checked.held("action_mask"))
        checked.check_held()
    if "reference" in (extras := checked.held("extras")):
        check_reference("Batch.extras['reference']", extras["reference"], spec.head.width)
    for fitting in (checked, batch):
        fitting.remember_fit(spec, checks)
