"""Batches on a policy's device: moved there once, and their minibatches gathered there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, cast
from weakref import ReferenceType

import numpy as np

from pgcore.autodiff import copies
from pgcore.autodiff.copies import Copies
from pgcore.autodiff.gathering import Gather, finalised
from pgcore.autodiff.inputs import (
    Inputs,
    each,
    padded_signal,
    padded_size,
    padded_weights,
    repeat_last,
)
from pgcore.autodiff.parameters import AutodiffParameters
from pgcore.data.batch import Batch
from pgcore.data.device_array import Device, DeviceArray
from pgcore.data.device_records import DeviceRecords
from pgcore.data.episodes import Episodes
from pgcore.data.native import arrays_of
from pgcore.data.spec import Adopted
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import Signals, SignalsPart
from pgcore.interfaces.surrogate import SummedSurrogate, Surrogate
from pgcore.validation.arrays import Array, PutOff
from pgcore.xp.namespace import Native

__all__ = ["ResidentPolicy"]


class ResidentPolicy(AutodiffParameters, Policy):
    """A policy whose device holds the batches, where it is not the host.

    A batch or minibatch comes as its whole batch's arrays, moved once, and the numbers of its rows.
    """

    pads: bool  # whether steps are padded to a few sizes, so that compiled code is reused
    integers: ClassVar[str] = "int64"  # the framework's dtype of positions
    # A batch's weights of a mean over steps, beside a weak reference to the batch.
    shares: tuple[ReferenceType[Batch], Array] | None = None
    left_out: ClassVar[frozenset[str]] = Policy.left_out | {"place", "shares"}

    def gathered(self, whole: Inputs, gather: Gather) -> Inputs:
        """Return the result of `minibatch` in the backend's namespace.

        A backend with policies on another device than the host writes it.
        """
        raise NotImplementedError

    def moved_numbers(self, rows: Array) -> Native:
        """Return [N] row numbers as `gathered` takes them, on the device.

        Args:
            rows: An array that nothing changes later.
        """
        return self.to_native(rows)

    @abstractmethod
    def try_out(self, batch: Batch) -> None:
        """Try an adopted network on a batch's observations, unless it was tried enough."""

    def run_checks(self, checks: Iterable[PutOff]) -> None:
        """See `Policy.run_checks`."""
        for check in checks:
            if self.is_here(check.valid.place):
                self.unread.add_check(self, check)
            else:
                check.run()

    def actions_there(self, actions: Any) -> Native:
        """See `Policy.actions_there`."""
        place = self.place
        if not isinstance(actions, DeviceArray):
            actions = place.array(place.native(actions))
        return self.taken("actions", actions, 0)

    @cached_property
    def copies(self) -> Copies:
        """The native copies of batches and signals."""
        return Copies()

    @cached_property
    def place(self) -> Device:
        """The device of the parameters, with floats of their dtype."""
        parameter = next(iter(self.native.values()))
        arrays: Any = arrays_of(parameter)
        like = arrays.xp.stop_gradient(arrays.reshape(parameter, (-1,))[:0])
        return Device(arrays, like, self.dtype.name)

    def is_here(self, device: Device | None) -> bool:
        """Whether a device of arrays is the one that holds this policy."""
        if not self.resident or device is None:
            return False
        return device.arrays is self.place.arrays and device.name == self.place.name

    def beside(self, batch: Episodes) -> bool:
        """See `Policy.beside`."""
        return self.is_here(batch.root.device)

    def on_accelerator(self, x: Any) -> Any:
        """See `Policy.on_accelerator`."""
        if not self.resident:
            return x
        if isinstance(x, Mapping):
            named = cast("Mapping[Any, Any]", x)
            there = {name: self.on_accelerator(value) for name, value in named.items()}
            if not there or not all(isinstance(value, DeviceArray) for value in there.values()):
                return named
            return DeviceRecords("observations", there)
        arrays = self.place.arrays
        if not arrays.owns(x):
            return x
        if arrays.device(x) != self.place.name:
            return x
        x = arrays.xp.stop_gradient(x)
        if "float" in arrays.dtype(x):
            with arrays.computing(self.dtype.name):
                x = arrays.cast(x, self.dtype.name)
        return self.place.array(x)

    def padding(self, steps: int) -> int:
        """Return the number of steps that compiled code wants beside these."""
        return padded_size(steps) - steps if self.pads else 0

    def holds(self, whole: Batch) -> bool:
        """Whether the device holds a whole batch, or will hold it."""
        if not self.resident:
            return False
        return self.beside(whole) or whole.observations.nbytes <= copies.MOST_BYTES

    def observations(self, observations: Array) -> Any:
        """Return observations in the network's dtype; an adopted network takes integers as they are.

        Arrays by name come back as a dict.
        """
        network, names = self.spec.network, observations.dtype.names
        if names is not None:
            return {
                name: self.observations(np.ascontiguousarray(observations[name])) for name in names
            }
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

    def resident_arrays(self, whole: Batch) -> tuple[Native, Native, Native]:
        """Return a whole batch's observations, actions and mask on the device, padded."""
        extra = self.padding(whole.num_steps)
        self.run_checks(whole.checks)

        def moved(name: str, convert: Callable[[Array], Any]) -> Native:
            held: Any = whole.held(name)
            if not isinstance(held, np.ndarray | None):
                if self.is_here(held.place):
                    return self.copies.get(held, name, lambda held: self.taken(name, held, extra))
                held = getattr(whole, name)

            def make(array: Array) -> Native:
                return each(self.to_native, repeat_last(convert(array), extra))

            return None if held is None else self.copies.get(cast("Array", held), name, make)

        return (
            moved("observations", self.observations),
            moved("actions", self.actions),
            moved("action_mask", lambda mask: mask),
        )

    def resident_steps(self, whole: Batch, rows: Array | None) -> tuple[Native, Native, Native]:
        """Return `resident_arrays` of some rows of a whole batch, padded; None for all rows."""
        arrays = self.resident_arrays(whole)
        if rows is None:
            return arrays
        gather = Gather(len(rows), self._moved_rows(rows, None)[0], None, (), {}, None, {})
        return self.gathered(Inputs(*arrays, {}, None), gather)[:3]

    def taken(self, name: str, held: Any, extra: int) -> Native:
        """Return a batch's array or arrays on this device as computations take them, padded.

        Args:
            name: The field's.
            held: A `DeviceArray`, or `DeviceRecords`, which come back as a dict.
            extra: Rows of padding.
        """
        if isinstance(held, DeviceRecords):
            return {key: self.taken(name, x, extra) for key, x in held.arrays.items()}
        arrays, x, kind = held.place.arrays, held.native, held.dtype.kind
        network, head = self.spec.network, self.spec.head
        dtype = self.dtype.name
        if name == "action_mask":
            dtype = "bool"
        elif head.discrete if name == "actions" else kind != "f" and network.num_states is not None:
            dtype = self.integers
        elif name == "observations" and kind != "f" and isinstance(network, Adopted):
            dtype = arrays.dtype(x)
        with arrays.computing(self.dtype.name):
            most: Any = None
            if name == "actions" and head.choices:
                most = [len(range(head.width)[choice]) - 1 for choice in head.choices]
            elif name == "observations" and network.num_states is not None:
                most = [network.num_states - 1]
            if most is not None:
                # A device may read outside of an array; see `Episodes.checks` for the error.
                within: Any = np.minimum(np.maximum(held, 0), most[0] if held.ndim == 1 else most)
                x = within.native
            x = x if arrays.dtype(x) == dtype else arrays.cast(x, dtype)
            if not extra:
                return x
            rows = np.minimum(np.arange(len(held) + extra, dtype=np.int32), len(held) - 1)
            return arrays.rows(x, self.to_native(rows))

    def resident_inputs(self, surrogate: Surrogate) -> Inputs | None:
        """Return a loss's inputs on the device; None where NumPy's have to be moved.

        With an estimator that writes `finalise` without `standards`, its result is moved.
        """
        if not self.resident or isinstance(surrogate, SummedSurrogate):
            return None
        batch, rows = surrogate.batch.whole()
        if not self.holds(batch):
            return None
        self.try_out(batch)
        signals = surrogate.signals
        signal_rows: Array | None = None
        scales: tuple[float, ...] = ()
        renumbered: Mapping[str, Array] = {}
        # A part with a replaced array is a whole of its own.
        if isinstance(signals, SignalsPart) and signals.intact:
            signal_rows, scales, renumbered = signals.rows, signals.scales, signals.renumbered
            signals = signals.whole
        native = signals.native
        standards: Mapping[str, Any] | None = {} if native else surrogate.standards
        # Without constants the arrays of this minibatch are moved as they are.
        if standards is None:
            standards, signal_rows, scales, renumbered = {}, None, (), {}
            signals = Signals(surrogate.values, surrogate.weights, padded=False)
        used: dict[str, Native] = {}
        for name in surrogate.estimator.signal_names - renumbered.keys():
            used[name] = self._moved_signal(name, signals.value(name))
        padding = None
        if standards and signals.padded:
            padding = self._moved_signal("padding", signals.padding_weights)
        whole = Inputs(*self.resident_arrays(batch), used, self.moved_weights(signals.weights))
        steps = len(surrogate.signals.weights)
        numbers, signal_numbers = self._moved_rows(rows, signal_rows)
        own = {
            name: self.to_native(padded_signal(name, value, self.padding(steps)))
            for name, value in renumbered.items()
        }
        gather = Gather(steps, numbers, signal_numbers, scales, standards, padding, own)
        if native:
            return self.finalised_minibatch(
                whole, gather, surrogate.estimator, self._real(surrogate)
            )
        return whole if gather.unneeded else self.gathered(whole, gather)

    def finalised_minibatch(
        self, whole: Inputs, gather: Gather, estimator: Estimator, real: Native
    ) -> Inputs:
        """Return a minibatch whose signals are finalised on the device.

        Args:
            whole: See `pgcore.autodiff.gathering.minibatch`.
            gather: The same.
            estimator: Whose signals.
            real: [N] bool, False at padding; None without any.
        """
        inputs = whole if gather.unneeded else self.gathered(whole, gather)
        return inputs._replace(signals=self.finalised(estimator, inputs.signals, real))

    def finalised(
        self, estimator: Estimator, signals: dict[str, Native], real: Native
    ) -> dict[str, Native]:
        """See `pgcore.autodiff.gathering.finalised`."""
        arrays = self.place.arrays
        with arrays.computing(self.dtype.name):
            return finalised(arrays, estimator, signals, real)

    def _real(self, surrogate: Surrogate) -> Native:
        """Return [N] bool on the device, True at the steps that count; None where all do."""
        signals = surrogate.signals
        steps = len(signals.weights)
        extra = self.padding(steps)
        if not signals.padded and not extra:
            return None

        def make(weights: Array) -> Native:
            marks = np.zeros(steps + extra, np.bool_)
            marks[:steps] = weights > 0 if signals.padded else True
            return self.to_native(marks)

        return self.copies.get(signals.padding_weights, "real", make)

    def _moved_signal(self, name: str, value: Array) -> Native:
        """Return a signal on the device, padded."""
        extra = self.padding(len(value))
        return self.copies.get(value, f"signal {name}", lambda x: self.signal(name, x, extra))

    def signal(self, name: str, value: Any, extra: int) -> Native:
        """Return a signal as computations take it: in the policy's dtype, on its device, padded."""
        if not isinstance(value, DeviceArray):
            return self.to_native(padded_signal(name, value, extra))
        if not self.is_here(value.place):
            return self.to_native(padded_signal(name, np.asarray(value).astype(self.dtype), extra))
        return self.taken("signals", value, extra)

    def moved_weights(self, weights: Array) -> Native:
        """Return weights on the device, padded with 0."""
        steps = len(weights)
        extra = self.padding(steps)

        def make(weights: Any) -> Native:
            if isinstance(weights, DeviceArray) and self.is_here(weights.place):
                xp, real = weights.place.arrays.xp, self.to_native(np.arange(steps + extra) < steps)
                return xp.where(real, self.taken("signals", weights, extra), 0.0)
            return self.to_native(padded_weights(np.asarray(weights), extra))

        return self.copies.get(weights, "weights", make)

    def _moved_rows(self, rows: Array | None, signal_rows: Array | None) -> tuple[Native, Native]:
        """Return the numbers of rows on the device, moved once where both are equal."""

        def moved(rows: Array | None) -> Native:
            if rows is None:
                return None
            # Padding repeats the last step.
            return self.moved_numbers(repeat_last(rows.astype(np.int32), self.padding(len(rows))))

        native = moved(rows)
        if rows is None or signal_rows is None or not np.array_equal(rows, signal_rows):
            return native, moved(signal_rows)
        return native, native
