"""Arguments of episodes that stay on an accelerator, and those that are read because shapes depend on them."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from pgcore.data.device_array import Device, Placed
from pgcore.data.device_records import DeviceRecords
from pgcore.data.native import arrays_of
from pgcore.validation.arrays import Array, read_only

__all__ = ["blank", "flattened", "nested", "staying"]

# Arguments, and extras, that divide arrays into steps, episodes and groups.
STRUCTURE = frozenset(
    (
        *("episode_lengths", "terminated", "truncated", "mask", "previous_done", "episode"),
        *("step_weights", "loss_mask", "group"),
    )
)
# Arguments that only a policy reads, in their own dtypes.
OBSERVED = re.compile(r"actions|action_mask|\w*observations")


def flattened(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments by name, with extras as `extras['name']`."""
    flat, extras = dict(arguments), arguments.get("extras")
    if isinstance(extras, Mapping):
        named = cast("Mapping[Any, Any]", extras)
        if all(isinstance(name, str) for name in named):
            del flat["extras"]
            flat |= {f"extras[{name!r}]": value for name, value in named.items()}
    return flat


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that `flattened` made flat."""
    names = {name: extra_of(name) for name in flat}
    extras = {extra: flat[name] for name, extra in names.items() if extra is not None}
    arguments = {name: value for name, value in flat.items() if names[name] is None}
    return {"extras": extras or None} | arguments


def extra_of(name: str) -> str | None:
    """Return the name of an extra among flat arguments; None of another argument."""
    return ast.literal_eval(name[7:-1]) if name.startswith("extras[") else None


def staying(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that stay on an accelerator, floats in the dtype of signals.

    Args:
        flat: As `flattened` returns them.
    """
    names = [name for name, value in flat.items() if stays(name, value)]
    if not names:
        return {}
    first: Any = next(
        iter(arrays_by_name(flat["rewards" if "rewards" in names else names[0]]).values())
    )
    device: Any = first.place if isinstance(first, Placed) else device_of(first)
    result: dict[str, Any] = {}
    for name in names:
        value, observed = flat[name], OBSERVED.fullmatch(name)
        if not isinstance(value, Placed):
            parts = arrays_by_name(value)
            # Signals do not compute with observations, which so keep their digits.
            wide = any(device_of(x).dtype == "float64" for x in parts.values())
            if observed and wide and device.dtype != "float64":
                continue
            # Those on another device are copied to the host, and moved from there.
            if any(not is_on(x, device) for x in parts.values()):
                continue
            held = {key: device.holding(x) for key, x in parts.items()}
            value = DeviceRecords(name, held) if isinstance(value, Mapping) else held[""]
        result[name] = value if observed else cast("Any", value).astype(np.float64)
    return result


def is_on(x: Any, device: Device) -> bool:
    """Whether a framework's array is on a device."""
    return device.arrays.owns(x) and device.arrays.device(x) == device.name


def arrays_by_name(value: Any) -> Mapping[str, Any]:
    """Return a mapping as it is, and any other value with the name ""."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {"": value}


def stays(name: str, value: Any) -> bool:
    """Whether an argument stays on its device: an accelerator's array that is no structure.

    Observations by name stay where all arrays do.
    """
    if isinstance(value, Placed):
        return True
    if isinstance(value, Mapping) and name.endswith("observations"):
        named = cast("Mapping[Any, Any]", value)
        return bool(named) and all(isinstance(x, str) and stays(name, named[x]) for x in named)
    arrays = None if isinstance(value, np.ndarray) else arrays_of(value)
    if arrays is None or not arrays.resident(value) or "complex" in arrays.dtype(value):
        return False
    extra = extra_of(name)
    if extra is None:
        return name not in STRUCTURE
    # Shapes may depend on integers and booleans of a user's own.
    return extra not in STRUCTURE and "float" in arrays.dtype(value)


def device_of(value: Any) -> Device:
    """Return the place of a framework's array; floats have float64 where it has, else float32."""
    arrays: Any = arrays_of(value)
    dtype = "float64" if arrays.dtype(value) == "float64" else "float32"
    empty = arrays.owned(arrays.xp.stop_gradient(arrays.reshape(value, (-1,))[:0]))
    return Device(arrays, empty, dtype)


def blank(x: Any) -> Array:
    """Return zeros of an array's shape and dtype, by which shapes are checked without its numbers."""
    # Of read-only memory, which a check takes as it is.
    return np.broadcast_to(read_only(np.zeros((), x.dtype)), x.shape)
