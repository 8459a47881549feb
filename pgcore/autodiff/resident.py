"""Batches on a policy's device: moved there once, and their minibatches gathered there."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pgcore.autodiff.inputs import (
    Inputs,
    padded_signal,
    padded_size,
    padded_weights,
    repeat_last,
)
from pgcore.autodiff.parameters import AutodiffParameters
from pgcore.data.batch import Batch
from pgcore.data.spec import Adopted
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import Signals, SignalsPart
from pgcore.interfaces.surrogate import SummedSurrogate, Surrogate
from pgcore.validation.arrays import Array
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["MOST_BYTES", "Copies", "Gather", "ResidentPolicy", "minibatch"]

# Memory on the device for copies of one policy's batches: 2 GiB. A larger batch is moved by minibatches.
MOST_BYTES = 2 << 30


class Copies:
    """Native copies of NumPy arrays; each is freed with its array, or where room is needed.

    A copy of this object, or its pickle, is empty.

    Attributes:
        entries: Weak reference to the array, native copy and bytes, by the array's address and form.
    """

    def __init__(self) -> None:
        """Start with none."""
        self.entries: OrderedDict[tuple[int, str], tuple[Any, Native, int]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of copies."""
        return len(self.entries)

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the copies behind: they belong to a device."""
        return type(self), ()

    def get(self, array: Array, form: str, make: Callable[[Array], Native]) -> Native:
        """Return the native copy of an array, made at the first call; the array is then read-only.

        A writable view of memory that cannot be made read-only has no copy that lasts.

        Args:
            array: NumPy's; a later array at the same address is another.
            form: The kind of copy: one array may have several.
            make: Makes the copy.
        """
        key = (id(array), form)
        entry = self.entries.get(key)
        if entry is not None and entry[0]() is array:
            return entry[1]
        native = make(array)
        # A change of the array would not reach its copy.
        if not freeze(array):
            return native
        copies = weakref.ref(self)
        alive = weakref.ref(array, lambda gone: forget(copies(), key, gone))
        self.entries[key] = (alive, native, array.nbytes)
        # A list, since the garbage collector may free an array, and so an entry, at any time.
        while sum(size for _, _, size in list(self.entries.values())) > MOST_BYTES:
            self.entries.popitem(last=False)
        return native


class Gather(NamedTuple):
    """The way from whole arrays to a minibatch of `N` steps, padding included; native but for `steps`.

    Attributes:
        steps: Number of steps without padding.
        rows: [N] integer. Rows of the batch's arrays; None for all of them.
        signal_rows: [N] integer. Those of the signals; None for all of them.
        scales: Factors of the weights, in the order of multiplication.
        standards: Constants of `Estimator.standards`.
        padding: [B] the whole's padding weights, for `standards` alone; None without padding.
    """

    steps: int
    rows: Native
    signal_rows: Native
    scales: tuple[Native, ...]
    standards: Mapping[str, tuple[Native, ...]]
    padding: Native

    @property
    def unneeded(self) -> bool:
        """Whether the whole is the minibatch as it is."""
        return self.rows is None and self.signal_rows is None and not self.standards


class ResidentPolicy(AutodiffParameters, Policy):
    """A policy whose device holds the batches, where it is not the host.

    A batch or minibatch comes as its whole batch's arrays, moved once, and the numbers of its rows.
    """

    pads: bool  # whether steps are padded to a few sizes, so that compiled code is reused

    def gathered(self, whole: Inputs, gather: Gather) -> Inputs:
        """Return the result of `minibatch` in the backend's namespace.

        A backend with policies on another device than the host writes it.
        """
        raise NotImplementedError

    @abstractmethod
    def try_out(self, batch: Batch) -> None:
        """Try an adopted network on a batch's observations, unless it was tried enough."""

    @cached_property
    def copies(self) -> Copies:
        """The native copies of batches and signals."""
        return Copies()

    def padding(self, steps: int) -> int:
        """Return the number of steps that compiled code wants beside these."""
        return padded_size(steps) - steps if self.pads else 0

    def holds(self, batch: Batch) -> bool:
        """Whether this is a whole batch that the device holds, or will hold."""
        return (
            self.resident and batch.whole()[1] is None and batch.observations.nbytes <= MOST_BYTES
        )

    def observations(self, observations: Array) -> Array:
        """Return observations in the network's dtype; an adopted network takes integers as they are."""
        network = self.spec.network
        # Frameworks index with int64 alone.
        if network.num_states is not None:
            return observations.astype(np.int64, copy=False)
        if not isinstance(network, Adopted) or observations.dtype.kind == "f":
            return observations.astype(self.dtype, copy=False)
        return observations

    def actions(self, actions: Array) -> Array:
        """Return actions in the policy's dtype; integer ones index, and keep theirs."""
        if actions.dtype.kind == "f" or not self.spec.head.discrete:
            return actions.astype(self.dtype, copy=False)
        return actions

    def resident_arrays(self, batch: Batch) -> tuple[Native, Native, Native]:
        """Return a whole batch's observations, actions and mask on the device, padded."""
        extra = self.padding(batch.num_steps)

        def moved(form: str, array: Array, convert: Callable[[Array], Array]) -> Native:
            def make(array: Array) -> Native:
                return self.to_native(repeat_last(convert(array), extra))

            return self.copies.get(array, form, make)

        mask = batch.action_mask
        return (
            moved("observations", batch.observations, self.observations),
            moved("actions", batch.actions, self.actions),
            None if mask is None else moved("mask", mask, lambda mask: mask),
        )

    def resident_inputs(self, surrogate: Surrogate) -> Inputs | None:
        """Return a loss's inputs on the device; None where NumPy's have to be moved.

        With an estimator that writes `finalise` without `standards`, its result is moved.
        """
        if not self.resident or isinstance(surrogate, SummedSurrogate):
            return None
        batch, rows = surrogate.batch.whole()
        if not self.holds(batch):
            return None
        self.try_out(surrogate.batch)
        signals, standards = surrogate.signals, surrogate.standards
        # Without constants the arrays of this minibatch are moved as they are.
        if standards is None:
            standards = {}
            signals = Signals(surrogate.values, surrogate.weights, padded=False)
        signal_rows: Array | None = None
        scales: tuple[float, ...] = ()
        renumbered: Mapping[str, Array] = {}
        # A part with a replaced array is a whole of its own.
        if isinstance(signals, SignalsPart) and signals.intact:
            signal_rows, scales, renumbered = signals.rows, signals.scales, signals.renumbered
            signals = signals.whole
        used: dict[str, Native] = {}
        for name in surrogate.estimator.signal_names - renumbered.keys():
            used[name] = self._moved_signal(name, signals.value(name))
        padding = None
        if standards and signals.padded:
            padding = self._moved_signal("padding", signals.padding_weights)
        whole = Inputs(*self.resident_arrays(batch), used, self._moved_weights(signals.weights))
        steps = len(surrogate.weights)
        numbers, signal_numbers = self._moved_rows(rows, signal_rows)
        gather = Gather(steps, numbers, signal_numbers, scales, standards, padding)
        inputs = whole if gather.unneeded else self.gathered(whole, gather)
        # Episodes of a part are numbered anew.
        for name, value in renumbered.items():
            inputs.signals[name] = self.to_native(padded_signal(name, value, self.padding(steps)))
        return inputs

    def _moved_signal(self, name: str, value: Array) -> Native:
        """Return a signal on the device, padded."""
        extra = self.padding(len(value))
        return self.copies.get(
            value, f"signal {name}", lambda array: self.to_native(padded_signal(name, array, extra))
        )

    def _moved_weights(self, weights: Array) -> Native:
        """Return weights on the device, padded with 0."""
        extra = self.padding(len(weights))
        return self.copies.get(
            weights, "weights", lambda array: self.to_native(padded_weights(array, extra))
        )

    def _moved_rows(self, rows: Array | None, signal_rows: Array | None) -> tuple[Native, Native]:
        """Return the numbers of rows on the device, moved once where both are equal."""

        def moved(rows: Array | None) -> Native:
            if rows is None:
                return None
            # Padding repeats the last step.
            return self.to_native(repeat_last(rows.astype(np.int32), self.padding(len(rows))))

        native = moved(rows)
        if rows is None or signal_rows is None or not np.array_equal(rows, signal_rows):
            return native, moved(signal_rows)
        return native, native


def minibatch(
    xp: ArrayNamespace,
    take: Callable[[Native, Native], Native],
    real: Callable[[Native, int], Native],
    whole: Inputs,
    gather: Gather,
) -> Inputs:
    """Return the inputs of a minibatch: the same numbers as NumPy's slices have.

    Args:
        xp: The backend's namespace.
        take: Returns rows of an array.
        real: Returns [N] bool, true for the first `steps`, of [N] weights and `steps`.
        whole: The arrays of the whole batch.
        gather: The minibatch.
    """
    rows, signal_rows = gather.rows, gather.signal_rows
    observations, actions, mask, signals, weights = whole
    if rows is not None:
        observations, actions = take(observations, rows), take(actions, rows)
        mask = None if mask is None else take(mask, rows)
    padding = gather.padding
    if signal_rows is not None:
        signals = {name: take(value, signal_rows) for name, value in signals.items()}
        weights = take(weights, signal_rows)
        padding = None if padding is None else take(padding, signal_rows)
        for scale in gather.scales:
            weights = weights * scale
        # Rows of padding repeat the last step.
        weights = xp.where(real(weights, gather.steps), weights, 0.0)
    for name, (first, mean, divisor) in gather.standards.items():
        value = ((signals[name] - first) - mean) / divisor
        signals = {
            **signals,
            name: value if padding is None else xp.where(padding > 0, value, 0.0),
        }
    return Inputs(observations, actions, mask, signals, weights)


def freeze(array: Array) -> bool:
    """Make an array read-only, and the base of a view; return False where that is not NumPy's."""
    # A read-only array is one that nobody changes: `Batch` says so.
    if not array.flags.writeable:
        return True
    base: Any = array.base
    if base is not None:
        if not isinstance(base, np.ndarray):
            return False
        base.flags.writeable = False
    array.flags.writeable = False
    return True


def forget(copies: Copies | None, key: tuple[int, str], gone: Any) -> None:
    """Drop the copy of an array that is freed."""
    if copies is not None:
        # Another array may have the address by now.
        entry = copies.entries.get(key)
        if entry is not None and entry[0] is gone:
            del copies.entries[key]
