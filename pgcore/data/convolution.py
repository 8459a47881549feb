"""A network of images: convolutions, then fully connected layers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple, cast

from pgcore.data.activations import activation, registered_activation
from pgcore.data.networks import Parameter, Parameters, TorsoNetwork, affine, affine_parameters
from pgcore.errors import PgcoreError, SpecError
from pgcore.validation.fields import Positive, check_fields, count, set_field
from pgcore.wording import shown
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["Conv"]

# The axes of an image: height, width, channels.
AXES = 3


class Layers(NamedTuple):
    """The usual layers for images of some size.

    Attributes:
        channels: Of each convolution's result.
        kernels: Sides of the windows.
        strides: Steps from one window to the next.
        hidden: Widths of the fully connected layers.
    """

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    hidden: tuple[int, ...]


# The usual layers by the smallest side that they are for, the largest first. The first are those of
# Mnih et al. 2015, "Human-level control through deep reinforcement learning"; the others our choice.
USUAL: tuple[tuple[int, Layers], ...] = (
    (36, Layers((32, 64, 64), (8, 4, 3), (4, 2, 1), (512,))),
    (16, Layers((16, 32), (4, 3), (2, 2), (128,))),
    (5, Layers((16, 32), (3, 3), (1, 1), (128,))),
    (2, Layers((16,), (2,), (1,), (128,))),
    (1, Layers((16,), (1,), (1,), (128,))),
)


def _counts(where: str, value: object, error: type[PgcoreError] = SpecError) -> tuple[int, ...]:
    """Return some numbers of at least 1 as ints, or raise."""
    if not isinstance(value, tuple | list):
        raise error(f"{where}: expected a tuple of numbers, got {shown(value)}; give one a layer")
    return tuple(count(where, item, error) for item in cast("Sequence[object]", value))


def _image(where: str, value: object, error: type[PgcoreError] = SpecError) -> tuple[int, ...]:
    """Return the shape of an image as ints, or raise unless it has three axes."""
    sides = cast("Sequence[object]", value if isinstance(value, tuple | list) else ())
    if len(sides) != AXES:
        raise error(
            f"{where}: expected the height, width and channels of an image, got {shown(cast('object', value))}; "
            "give all three, such as (84, 84, 4)"
        )
    return _counts(where, sides, error)


@dataclass(frozen=True, slots=True)
class Conv(TorsoNetwork):
    """Convolutions of images [B, H, W, C], fully connected layers, and a linear output layer.

    Windows lie within the image, without padding. The activation follows each layer but the last.

    Attributes:
        image: H, W and C of an observation.
        channels: Channels of each convolution's result, first to last; None, here and in the next
            three, takes the layers that are usual for the image's smaller side.
        kernels: Side of each convolution's square windows, pixels.
        strides: Pixels from one window to the next, along both axes.
        hidden: Widths of the fully connected layers; () for none.
        activation: A registered name, as in `MLP`.
        scale: Observations are divided by it: 255 brings bytes to [0, 1].

    Raises:
        SpecError: the three lists are of different lengths, or a window is larger than its input.

    Example:
        >>> pg.Conv((84, 84, 4), scale=255.0).kernels, pg.Conv((10, 10, 6), hidden=(64,)).channels
        ((8, 4, 3), (16, 32))
    """

    image: Annotated[tuple[int, ...], _image]
    channels: Annotated[tuple[int, ...], _counts] | None = None
    kernels: Annotated[tuple[int, ...], _counts] | None = None
    strides: Annotated[tuple[int, ...], _counts] | None = None
    hidden: Annotated[tuple[int, ...], _counts] | None = None
    activation: Annotated[str, registered_activation] = "relu"
    scale: Positive = 1.0
    name: ClassVar[str] = "conv"

    def __post_init__(self) -> None:
        """Check the fields, fill in the usual ones, and check that the windows fit."""
        check_fields(self)
        side = min(self.image[:2])
        usual = next(layers for smallest, layers in USUAL if side >= smallest)
        for name, value in usual._asdict().items():
            if getattr(self, name) is None:
                set_field(self, name, value)
        lengths = {name: len(getattr(self, name)) for name in ("channels", "kernels", "strides")}
        if len({*lengths.values()}) > 1 or not self.layers:
            raise SpecError(
                f"Conv: expected as many channels as kernels and strides, at least 1 of each, got {lengths}; "
                "give one of each a layer"
            )
        _ = self.sizes

    @property
    def layers(self) -> tuple[tuple[int, int, int], ...]:
        """Channels, kernel and stride of each convolution."""
        lists = (self.channels or (), self.kernels or (), self.strides or ())
        return tuple(zip(*lists, strict=False))

    @property
    def sizes(self) -> tuple[tuple[int, int, int], ...]:
        """Height, width and channels of the image, and of each convolution's result.

        Raises:
            SpecError: a window is larger than its input.
        """
        height, width, channels = self.image
        sizes = [(height, width, channels)]
        for number, (channels, kernel, stride) in enumerate(self.layers):
            if kernel > min(height, width):
                raise SpecError(
                    f"Conv.kernels: expected windows within their input, {height} x {width} in layer "
                    f"{number}, got {kernel}; choose smaller kernels or strides"
                )
            height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
            sizes.append((height, width, channels))
        return tuple(sizes)

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """See `Network.observation_shape`."""
        return self.image

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers behind the convolutions, and widths of the fully connected layers."""
        return (math.prod(self.sizes[-1]), *(self.hidden or ()))

    @property
    def width(self) -> int:
        """See `TorsoNetwork.width`."""
        return self.widths[-1]

    def torso_parameters(self) -> dict[str, Parameter]:
        """See `TorsoNetwork.torso_parameters`; kernels are [h, w, C, channels]."""
        gain = activation(self.activation).gain
        parameters: dict[str, Parameter] = {}
        for number, (channels, kernel, _) in enumerate(self.layers):
            shape = (kernel, kernel, self.sizes[number][-1], channels)
            parameters[f"conv.{number}.weight"] = Parameter(shape, gain)
            parameters[f"conv.{number}.bias"] = Parameter((channels,))
        for number, (inputs, outputs) in enumerate(itertools.pairwise(self.widths)):
            parameters |= affine_parameters(f"hidden.{number}", inputs, outputs, gain)
        return parameters

    def torso(self, xp: ArrayNamespace, parameters: Parameters, observations: Native) -> Native:
        """See `TorsoNetwork.torso`."""
        function = activation(self.activation)
        features = observations if self.scale == 1.0 else observations / self.scale
        for number, (_, _, stride) in enumerate(self.layers):
            layer = f"conv.{number}"
            image = xp.convolve(features, parameters[f"{layer}.weight"], stride)
            features = function.value(xp, image + parameters[f"{layer}.bias"])
        features = xp.flatten(features)
        for number in range(len(self.widths) - 1):
            features = function.value(xp, affine(xp, parameters, f"hidden.{number}", features))
        return features
