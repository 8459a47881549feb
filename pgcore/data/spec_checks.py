"""Whether data fit a spec: observations, masks and parameters, checked before anything is computed from them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data.spec import Adopted, PolicySpec
from pgcore.errors import BatchError, ParameterError, ShapeError, SpecError
from pgcore.validation.arrays import Array, owned_booleans, owned_numbers

__all__ = ["check_mask", "check_observations", "check_parameters", "check_saved"]


def check_observations(where: str, spec: PolicySpec, observations: Array) -> None:
    """Raise ShapeError or BatchError unless the network can take the observations."""
    network, shape = spec.network, spec.network.observation_shape
    if shape is None:  # only the network itself can tell
        return
    states = network.num_states
    if states is None:
        if observations.shape[1:] != shape or observations.ndim == 0:
            expected = ", ".join(map(str, ("B", *shape)))
            raise ShapeError(
                f"{where}: expected shape [{expected}] for {network}, got {list(observations.shape)}; "
                "check the network's inputs"
            )
        return
    if observations.ndim != 1 or observations.dtype.kind not in "iu":
        raise ShapeError(
            f"{where}: expected [B] integers for {network}, got {list(observations.shape)} {observations.dtype}; number the states from 0"
        )
    outside = (observations < 0) | (observations >= states)
    if outside.any():
        step = int(outside.argmax())
        raise BatchError(
            f"{where}: expected states in [0, {states}), got {observations[step]} at step {step}; check the table's states"
        )


def check_mask(
    spec: PolicySpec, action_mask: ArrayLike, steps: int, *, where: str = "action_mask"
) -> Array:
    """Return the mask as a bool array that fits the head, or raise ShapeError or BatchError."""
    mask = owned_booleans(where, action_mask, 2)
    if not spec.head.choices:
        raise BatchError(
            f"{where}: expected none for {spec.head}, got a mask; only discrete heads can mask actions"
        )
    if mask.shape != (steps, spec.head.width):
        raise ShapeError(
            f"{where}: expected shape [{steps}, {spec.head.width}] for {spec.head}, got {list(mask.shape)}; one column an action"
        )
    for own in spec.head.choices:
        possible = mask[:, own].any(axis=1)
        if not possible.all():
            raise BatchError(
                f"{where}: expected a possible action at every step, got none at step {int(possible.argmin())}; the episode should have "
                "ended there"
            )
    return mask


def check_parameters(
    spec: PolicySpec, parameters: Mapping[str, ArrayLike], dtype: np.dtype[Any]
) -> dict[str, Array]:
    """Return the parameters in the dtype, or raise ParameterError unless names, shapes and values are the spec's."""
    wanted = spec.parameter_shapes
    if set(parameters) != set(wanted):
        missing, surplus = (
            sorted(set(wanted) - set(parameters)),
            sorted(set(parameters) - set(wanted)),
        )
        raise ParameterError(
            f"parameters: expected the names {', '.join(wanted)}, got missing {missing}, surplus {surplus}; rename them"
        )
    arrays: dict[str, Array] = {}
    for name, shape in wanted.items():
        array = owned_numbers(f"parameters[{name!r}]", parameters[name])
        if array.shape != shape or array.dtype.kind != "f":
            raise ParameterError(
                f"parameters[{name!r}]: expected float {list(shape)}, got {array.dtype} {list(array.shape)}; check the spec"
            )
        with np.errstate(over="ignore"):
            arrays[name] = array.astype(dtype, copy=False)
        if not np.isfinite(arrays[name]).all():
            raise ParameterError(
                f"parameters[{name!r}]: expected finite numbers in {dtype}, got NaN or infinity; load a good checkpoint"
            )
    return arrays


def check_saved(where: str, spec: PolicySpec, saved: str) -> None:
    """Raise SpecError unless a saved spec (JSON) is this one, apart from the network where that is adopted: only parameters say what it is."""
    own: dict[str, Any] = json.loads(spec.to_json())
    try:
        found: dict[str, Any] = {"critic_values": "state", **json.loads(saved)}
    except (ValueError, TypeError) as error:
        raise SpecError(
            f"{where}: expected a spec that to_json wrote, got {str(saved)[:80]!r} ({error}); write the file again"
        ) from error
    for part in ("head", "critic", "critic_values", "network"):
        if found.get(part) != own[part] and not (
            part == "network" and isinstance(spec.network, Adopted)
        ):
            raise SpecError(
                f"{where}: expected the {part} of the policy that it is loaded into, {described(own[part])}, got {described(found.get(part))}; "
                "load it into a policy of its own spec, or without `into`"
            )


def described(part: Any) -> str:
    """Return a part of a spec in JSON as it is written in Python, short enough for a message; of an adopted network its description."""
    if not isinstance(part, dict):
        return repr(part)
    fields = cast("dict[str, Any]", part)
    named = {key: value for key, value in fields.items() if key not in ("name", "shapes")}
    text = f"{fields.get('name')}({', '.join(f'{key}={value!r}' for key, value in named.items())})"
    return text if len(text) <= 120 else f"{text[:117]}..."
