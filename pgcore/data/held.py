"""The arrays that episodes hold: in host memory, or on the accelerator where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from pgcore.data.constructors import Constructed
from pgcore.data.device_array import Device, DeviceArray
from pgcore.data.host import first_native, host
from pgcore.data.placing import blank, flattened, nested, staying
from pgcore.validation.arrays import PutOff, add_check, booleans_in, fixed
from pgcore.validation.batch_fields import LOSS_MASK, validated

__all__ = ["Held"]

REALS = ("rewards", "log_probs", "values", "discount", "final_values")


class Held(Constructed):
    """What episodes hold, read from a device where somebody asks for a field.

    Attributes:
        place: The device of the arrays that attributes give; None for NumPy's. See `on_device`.
    """

    # Arrays that stay on an accelerator, by their names among arguments; and the arguments, zeros there.
    _resident: Mapping[str, DeviceArray] = MappingProxyType({})
    _arguments: Mapping[str, Any] = MappingProxyType({})
    _extras: Mapping[str, Any]  # with those on an accelerator there
    place: Device | None = None

    def _hold(self, arguments: dict[str, Any]) -> None:
        """Validate the arguments by name and hold them."""
        like = first_native(type(self).__name__, arguments)
        if like is not None:
            self.__dict__["like"] = like
            flat = flattened(arguments)
            resident = staying(flat)
            flat |= {name: blank(array) for name, array in resident.items()}
            arguments = nested({name: host(value) for name, value in flat.items()})
            if resident:
                for array in resident.values():
                    fixed(array)
                self.__dict__.update(_resident=resident, _arguments=arguments)
        fields = validated(type(self).__name__, arguments, self._resident)
        if self._resident:
            self._leave_out(fields)
        self.__dict__.update(fields)

    def _leave_out(self, fields: dict[str, Any]) -> None:
        """Leave out the fields that are copied from a device where somebody reads them."""
        resident: Any = self._resident
        if "final_values" in resident:
            # The value of a terminal state is 0, whatever was recorded.
            final = np.where(fields["terminated"], 0.0, resident["final_values"])
            resident["final_values"] = fixed(final)
        extras = fields.pop("extras")
        fields["_extras"] = {key: resident.get(f"extras[{key!r}]", x) for key, x in extras.items()}
        for name in resident:
            fields.pop(name, None)

    @property
    def device(self) -> Device | None:
        """The accelerator on which arrays stay, and the dtype of signals there; None without one."""
        return next((array.place for array in self._resident.values()), None)

    def on_device(self, dtype: str = "") -> Self:
        """Return the episodes with their floats on `device`, as signals read them there.

        Only what divides the arrays, such as episode lengths and masks, is in host memory.

        Args:
            dtype: Of the floats, "float64" or that of `device`.
        """
        device: Any = self.device
        if dtype == "float64" != device.dtype:
            device = Device(device.arrays, device.like, dtype)

        def moved(x: Any) -> Any:
            return device.holding(x) if x is not None and x.dtype.kind == "f" else x

        fields = {**vars(self), **self._resident, "place": device}
        fields |= {name: moved(self.held(name)) for name in REALS}
        fields["extras"] = {name: moved(x) for name, x in self.held("extras").items()}
        whole: Any = self
        return whole.trusted(fields)

    def held(self, name: str) -> Any:
        """Return a field where it is, on a device or in host memory."""
        if name == "extras" and self._resident:
            return self._extras
        return self._resident[name] if name in self._resident else getattr(self, name)

    def _copied_field(self, name: str) -> Any:
        """Return a field of host arrays, validated, from a device."""
        arrays = {
            key: np.asarray(x) for key, x in self._resident.items() if key.partition("[")[0] == name
        }
        arguments = nested(flattened(self._arguments) | arrays)
        unread = self._resident.keys() - arrays.keys()
        return validated(type(self).__name__, arguments, unread)[name]

    def check_held(self) -> None:
        """Put off the check of numbers on a device that a loss might hide; see `put_off`.

        NaN and infinity in the others come out of a loss, which tells of them.
        """
        rules: list[Any] = []
        loss_mask = self._extras.get(LOSS_MASK) if self._resident else None
        for name, array in self._resident.items():
            if name == "discount":
                rules.append((array >= 0) & (array <= 1))
            elif name in ("rewards", "log_probs", "values"):
                finite = (array > -np.inf) & (array < np.inf)
                rules.append(
                    finite if loss_mask is None or name == "rewards" else finite | ~loss_mask
                )
            elif name == "action_mask" and array.dtype.kind != "b":
                rules.append(booleans_in(array))
        if rules:
            valid = rules[0]
            for rule in rules[1:]:
                valid = valid & rule
            add_check(PutOff(valid, self.check_numbers))

    def check_numbers(self) -> None:
        """Copy every field from a device and check its numbers, as is done where one is read.

        Raises:
            BatchError: see `Episodes`; names field and step.
        """
        for name in {key.partition("[")[0] for key in self._resident}:
            self._copied_field(name)
