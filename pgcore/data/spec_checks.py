"""Whether data fit a spec: observations, masks and parameters, checked before any computation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from pgcore.data.spec import Adopted, PolicySpec
from pgcore.errors import BatchError, ParameterError, ShapeError, SpecError
from pgcore.validation.arrays import Array, check_rows, owned_booleans, owned_numbers
from pgcore.wording import shown

__all__ = [
    "check_mask",
    "check_mask_shape",
    "check_observations",
    "check_parameters",
    "check_saved",
]

MOST_CHARACTERS = 120  # of a part of a spec in a message


def check_observations(where: str, spec: PolicySpec, observations: Array) -> None:
    """Raise unless the network can take the observations.

    Args:
        where: The array's name, for errors.
        spec: The policy's.
        observations: [B, ...] number.

    Raises:
        ShapeError: another shape than the network's, or no integers for a table.
        BatchError: a state's number is out of range.
    """
    network, shape = spec.network, spec.network.observation_shape
    if shape is None:  # an adopted network declares none, and raises its own errors
        return
    states, names = network.num_states, observations.dtype.names
    if names is not None:
        raise ShapeError(
            f"{where}: expected one array for {network}, got arrays by name ({', '.join(names)}); join "
            "them into one, or adopt a network that takes a dict of them"
        )
    if states is None:
        if observations.ndim == 0 or observations.shape[1:] != shape:
            expected = ", ".join(map(str, ("B", *shape)))
            raise ShapeError(
                f"{where}: expected shape [{expected}] for {network}, "
                f"got {list(observations.shape)}; check the network's inputs"
            )
        return
    # A table's observations are states' numbers.
    if observations.ndim != 1 or observations.dtype.kind not in "iu":
        raise ShapeError(
            f"{where}: expected [B] integers for {network}, got {list(observations.shape)} "
            f"{observations.dtype}; number the states from 0"
        )
    inside = (observations >= 0) & (observations < states)
    check_rows(where, f"states in [0, {states})", inside, observations, "check the table's states")


def check_mask(
    spec: PolicySpec, action_mask: ArrayLike, steps: int, *, where: str = "action_mask"
) -> Array:
    """Return the mask as a bool array that fits the head.

    Args:
        spec: The policy's.
        action_mask: [B, width] bool, or 0 and 1.
        steps: B.
        where: The array's name, for errors.

    Raises:
        ShapeError: another shape.
        BatchError: the head takes no mask, or a step has no possible action.
    """
    mask, head = owned_booleans(where, action_mask, 2), spec.head
    check_mask_shape(spec, mask.shape, steps, where=where)
    rule, advice = "a possible action at every step", "the episode should have ended there"
    for columns in head.choices:
        check_rows(where, rule, mask[:, columns].any(axis=1), "none", advice)
    return mask


def check_mask_shape(
    spec: PolicySpec, shape: tuple[int, ...], steps: int, *, where: str = "action_mask"
) -> None:
    """Raise the errors of `check_mask` that a mask's shape alone tells."""
    head = spec.head
    if not head.choices:
        raise BatchError(
            f"{where}: expected none for {head}, got a mask; only discrete heads can mask actions"
        )
    if shape != (steps, head.width):
        raise ShapeError(
            f"{where}: expected shape [{steps}, {head.width}] for {head}, got {list(shape)}; "
            "one column an action"
        )


def check_parameters(
    spec: PolicySpec, parameters: Mapping[str, ArrayLike], dtype: np.dtype[Any]
) -> dict[str, Array]:
    """Return the parameters in a dtype.

    Args:
        spec: The policy's, which declares names and shapes.
        parameters: Float arrays by name.
        dtype: The result's.

    Raises:
        ParameterError: names, shapes or dtypes are not the spec's, or a number is not finite.
    """
    if not isinstance(parameters, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ParameterError(
            f"parameters: expected arrays by name, got {shown(parameters)}; "
            "pass the result of Policy.parameters"
        )
    shapes = spec.parameter_shapes
    if set(parameters) != set(shapes):
        missing = sorted(set(shapes) - set(parameters))
        surplus = sorted(set(parameters) - set(shapes))
        raise ParameterError(
            f"parameters: expected the names {', '.join(shapes)}, got missing {missing}, "
            f"surplus {surplus}; rename them"
        )
    arrays: dict[str, Array] = {}
    for name, shape in shapes.items():
        where = f"parameters[{name!r}]"
        array = owned_numbers(where, parameters[name])
        if array.shape != shape or array.dtype.kind != "f":
            rule, got = f"float {list(shape)}", f"{array.dtype} {list(array.shape)}"
            raise ParameterError(f"{where}: expected {rule}, got {got}; check the spec")
        # A number too large for the dtype becomes infinite, which the next check refuses.
        with np.errstate(over="ignore"):
            arrays[name] = array.astype(dtype, copy=False)
        if not np.isfinite(arrays[name]).all():
            raise ParameterError(
                f"{where}: expected finite numbers in {dtype}, got NaN or infinity; "
                "load a good checkpoint"
            )
    return arrays


def check_saved(where: str, spec: PolicySpec, saved: str) -> None:
    """Raise SpecError unless a saved spec equals this one; an adopted network is not compared.

    Args:
        where: The file, for errors.
        spec: The spec of the policy that the file is loaded into.
        saved: The file's spec, JSON.
    """
    import json

    reference: dict[str, Any] = json.loads(spec.to_json())
    # A saved spec without critic values has those of states.
    try:
        loaded: dict[str, Any] = {"critic_values": "state", **json.loads(saved)}
    except (ValueError, TypeError) as error:
        got = f"{str(saved)[:80]!r} ({error})"
        raise SpecError(f"{where}: expected what to_json writes, got {got}; save again") from error
    parts = ("head", "critic", "critic_values", "network")
    # Only its parameters describe an adopted network.
    for part in parts[:-1] if isinstance(spec.network, Adopted) else parts:
        if loaded.get(part) != reference[part]:
            raise SpecError(
                f"{where}: expected the {part} of the policy that it is loaded into, "
                f"{_written(reference[part])}, got {_written(loaded.get(part))}; "
                "load it into a policy of its own spec, or without `into`"
            )


def _written(part: Any) -> str:
    """Return a part of a spec, from JSON, in Python's notation; truncated for a message."""
    if not isinstance(part, dict):
        return repr(part)
    fields = dict(cast("dict[str, Any]", part))
    name = fields.pop("name", None)
    fields.pop("shapes", None)  # of an adopted network, which has a description
    text = f"{name}({', '.join(f'{key}={value!r}' for key, value in fields.items())})"
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 3]}..."
