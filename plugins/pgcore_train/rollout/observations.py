"""How networks get an environment's observations: as states, numbers, images, or arrays by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from gymnasium.spaces import (
    Box,
    Dict,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Space,
    Tuple,
    flatten_space,
)

from pgcore.errors import UnsupportedEnvironmentError
from pgcore.validation.arrays import Array
from pgcore.validation.observations import owned_observations

__all__ = ["Form", "Reader", "leaves", "reader_of"]

# The spaces that are one array.
ARRAYS = (Box, Discrete, MultiBinary, MultiDiscrete)
IMAGE_AXES = 3


class Form(Enum):
    """The form in which a network takes observations; a `Discrete` one is a state's number in each.

    AUTO is IMAGE for a `Box` of three axes, else FLAT. NATIVE is for networks of the user's own.
    """

    AUTO = "auto"
    FLAT = "flat"
    IMAGE = "image"
    NATIVE = "native"


@dataclass(frozen=True)
class Reader:
    """From a vector's observations to [N, ...] arrays.

    Attributes:
        space: Of one array's row: `Discrete`; a `Box` of one axis or of [H, W, C]; or, in the native
            form, the environment's own.
        read: From the vector's observations.
    """

    space: Space[Any]
    read: Callable[[Any], Array]


def reader_of(space: Space[Any], form: Form) -> Reader:
    """Return the reader of a space of one environment's observations.

    Raises:
        UnsupportedEnvironmentError: the space has a part that is no array of numbers, or no image
            where the network takes images.
    """
    for name, leaf in leaves(space):
        if not isinstance(leaf, ARRAYS):
            part = f", part {name}" if name else ""
            raise UnsupportedEnvironmentError(
                f"observation space{part}: expected Box, Discrete, MultiDiscrete, MultiBinary, or a Dict "
                f"or Tuple of these, got {leaf}; register the environment wrapped in a "
                "gymnasium.ObservationWrapper that offers one of them"
            )
    if isinstance(space, Discrete):
        first = int(space.start)
        return Reader(space, lambda numbers: numbers - first if first else numbers)
    if form is Form.NATIVE:
        return native_reader(space)
    axes = len(space.shape or ()) if isinstance(space, Box) else 0
    if form is Form.IMAGE or (form is Form.AUTO and axes == IMAGE_AXES):
        return image_reader(space)
    flat = flatten_space(space)
    assert isinstance(flat, Box)
    # A vector of numbers is its own flat form.
    if axes == 1:
        return Reader(flat, lambda array: array)
    return Reader(flat, lambda value: flattened(space, value))


def leaves(space: Space[Any], name: str = "") -> Iterator[tuple[str, Space[Any]]]:
    """Yield the spaces inside nested `Dict`s and `Tuple`s with their names, joined by dots."""
    if isinstance(space, Dict | Tuple):
        parts = space.spaces.items() if isinstance(space, Dict) else enumerate(space.spaces)
        for key, part in parts:
            yield from leaves(part, f"{name}.{key}" if name else str(key))
    else:
        yield name, space


def values(
    space: Space[Any], value: Any, name: str = ""
) -> Iterator[tuple[str, Space[Any], Array]]:
    """Yield name, space and [N, ...] array of each leaf of a vector's observations; see `leaves`."""
    if isinstance(space, Dict):
        for key, part in space.spaces.items():
            yield from values(part, value[key], f"{name}.{key}" if name else str(key))
    elif isinstance(space, Tuple):
        for key, part in enumerate(space.spaces):
            yield from values(part, value[key], f"{name}.{key}" if name else str(key))
    else:
        yield name, space, value


def native_reader(space: Space[Any]) -> Reader:
    """Return the reader for a network of the user's own: one array, or a structured array of several."""
    if not isinstance(space, Dict | Tuple):
        return Reader(space, lambda array: array)

    def read(value: Any) -> Array:
        arrays: dict[str, Array] = {}
        for name, leaf, array in values(space, value):
            arrays[name] = array - int(leaf.start) if isinstance(leaf, Discrete) else array
        return owned_observations("observations", arrays)

    return Reader(space, read)


def image_reader(space: Space[Any]) -> Reader:
    """Return the reader of images, [N, H, W, C]."""
    if not isinstance(space, Box) or len(space.shape) not in (IMAGE_AXES - 1, IMAGE_AXES):
        raise UnsupportedEnvironmentError(
            f"observation space: expected a Box of [H, W, C] or [H, W] for a network of images, got {space}; "
            "choose another network.type"
        )
    if len(space.shape) < IMAGE_AXES:
        return Reader(
            of_images(space, lambda array: array[..., None]), lambda array: array[..., None]
        )
    if channels_first(*space.shape):
        # Frames that are stacked, such as [4, 84, 84].
        moved = of_images(space, lambda array: np.moveaxis(array, 0, -1))
        return Reader(moved, lambda array: np.moveaxis(array, 1, -1))
    return Reader(space, lambda array: array)


def channels_first(first: int, second: int, third: int) -> bool:
    """Return whether the first axis of an image is the channels': the other two are equal, or larger."""
    # Images are more often square than their channels as many as one of their sides.
    if second in (first, third):
        return first != second
    return first < third


def of_images(space: Box, change: Callable[[Array], Array]) -> Box:
    """Return a Box whose bounds are changed as the images are."""
    return Box(change(space.low), change(space.high), dtype=space.dtype.type)


def flattened(space: Space[Any], value: Any) -> Array:
    """Return [N, D] numbers: arrays side by side, choices as one column for each alternative.

    The columns are those of `gymnasium.spaces.flatten`.
    """
    parts: list[Array] = []
    for _, leaf, array in values(space, value):
        if isinstance(leaf, Discrete):
            parts.append(one_hot(array - int(leaf.start), int(leaf.n)))
        elif isinstance(leaf, MultiDiscrete):
            numbers = (array - leaf.start).reshape(len(array), -1)
            counts = leaf.nvec.reshape(-1)
            parts += [one_hot(numbers[:, k], int(n)) for k, n in enumerate(counts)]
        else:
            parts.append(array.reshape(len(array), -1))
    if len(parts) == 1:
        return parts[0]
    # Large integers would not survive single precision.
    wide = any(part.dtype.itemsize > 4 for part in parts)
    return np.concatenate(parts, axis=1, dtype=np.float64 if wide else np.float32)


def one_hot(numbers: Array, count: int) -> Array:
    """Return [N, count] float32, 1 in the column of each number."""
    return (numbers[:, None] == np.arange(count)).astype(np.float32)
