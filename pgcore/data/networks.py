"""Networks: maps from observations to a head's outputs, written once against `xp`."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple, NoReturn, cast

from pgcore.data.activations import activation, registered_activation
from pgcore.errors import PgcoreError, SpecError
from pgcore.validation.fields import Checked, Count, count
from pgcore.wording import shown
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["MLP", "Adopted", "Linear", "Network", "Table", "TorsoNetwork"]
__all__ += ["Parameter", "affine", "affine_parameters"]

Parameters = Mapping[str, Native]


class Parameter(NamedTuple):
    """The shape of one array of parameters, and its content at the start of learning.

    Attributes:
        shape: Its lengths.
        gain: Of an orthogonal matrix [in, out]; None if every entry starts at `value`.
        value: See `gain`.
    """

    shape: tuple[int, ...]
    gain: float | None = None
    value: float = 0.0


class Network(Checked, ABC):
    """A function of observations [B, ...] and parameters, which a backend holds, to [B, outputs].

    A subclass is a frozen dataclass whose fields go to JSON and declare their checks (see
    `pgcore.validation.fields`). Backends that differentiate run `forward` as it is; NumPy needs
    its derivative too, registered with `pgcore_numpy.networks.make_network.register`.

    Attributes:
        name: The name by which the hook `pgcore_networks` registers it.
        has_torso: Whether a critic can sit on the last hidden layer; see `TorsoNetwork`.
    """

    __slots__ = ()
    registered_as = "networks"  # the kind
    name: ClassVar[str]
    has_torso: ClassVar[bool] = False

    @property
    @abstractmethod
    def observation_shape(self) -> tuple[int, ...] | None:
        """The shape of one observation, () for a state's number; None if none is declared."""

    @property
    def num_states(self) -> int | None:
        """The number of states if an observation is a state's number; None for any other."""
        return None

    @abstractmethod
    def parameters(self, outputs: int, gain: float) -> dict[str, Parameter]:
        """Return the network's parameters by name, in the order in which they are stored.

        Args:
            outputs: Number of outputs.
            gain: Of the weights of the output layer, at the start of learning.
        """

    @abstractmethod
    def forward(self, xp: ArrayNamespace, parameters: Parameters, observations: Native) -> Native:
        """Return [B, outputs].

        Args:
            xp: The backend's array functions.
            parameters: Arrays of the shapes that `parameters` declares, by name.
            observations: [B, ...] of the parameters' dtype, or [B] integers that number states.
        """


class TorsoNetwork(Network):
    """A network that ends in an affine layer; a critic can share the hidden layer below it."""

    __slots__ = ()
    has_torso: ClassVar[bool] = True

    @property
    @abstractmethod
    def width(self) -> int:
        """The width of the last hidden layer."""

    @property
    def output_layer(self) -> str:
        """The name of the output layer, before `.weight` and `.bias`."""
        return "output"

    @abstractmethod
    def torso_parameters(self) -> dict[str, Parameter]:
        """Return the parameters of the hidden layers; see `Network.parameters`."""

    @abstractmethod
    def torso(self, xp: ArrayNamespace, parameters: Parameters, observations: Native) -> Native:
        """See `Network.forward`; returns [B, width], the last hidden layer."""

    def parameters(self, outputs: int, gain: float) -> dict[str, Parameter]:
        """See `Network.parameters`."""
        output = affine_parameters(self.output_layer, self.width, outputs, gain)
        return self.torso_parameters() | output

    def forward(self, xp: ArrayNamespace, parameters: Parameters, observations: Native) -> Native:
        """See `Network.forward`."""
        return affine(xp, parameters, self.output_layer, self.torso(xp, parameters, observations))


@dataclass(frozen=True, slots=True)
class Table(Network):
    """One row of outputs a discrete state; observations are integers [B] in [0, states)."""

    states: Count
    name: ClassVar[str] = "table"

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """See `Network.observation_shape`."""
        return ()

    @property
    def num_states(self) -> int:
        """See `Network.num_states`."""
        return self.states

    def parameters(self, outputs: int, gain: float) -> dict[str, Parameter]:
        """See `Network.parameters`."""
        # Zeros: a uniform policy at first, and values of 0.
        return {"table": Parameter((self.states, outputs))}

    def forward(self, xp: ArrayNamespace, parameters: Parameters, observations: Native) -> Native:
        """See `Network.forward`."""
        return xp.take_rows(parameters["table"], observations)


@dataclass(frozen=True, slots=True)
class Linear(Network):
    """An affine map of observations [B, inputs]."""

    inputs: Count
    name: ClassVar[str] = "linear"
    hidden: ClassVar[tuple[int, ...]] = ()  # a linear network is the shortest MLP

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """See `Network.observation_shape`."""
        return (self.inputs,)

    def parameters(self, outputs: int, gain: float) -> dict[str, Parameter]:
        """See `Network.parameters`."""
        return affine_parameters("0", self.inputs, outputs, gain)

    def forward(self, xp: ArrayNamespace, parameters: Parameters, observations: Native) -> Native:
        """See `Network.forward`."""
        return affine(xp, parameters, "0", observations)


def _widths(where: str, value: object, error: type[PgcoreError] = SpecError) -> tuple[int, ...]:
    """Return the widths of hidden layers as ints, or raise unless there are some, all counts."""
    if not isinstance(value, tuple | list) or not value:
        raise error(
            f"{where}: expected a tuple of layer widths, got {shown(cast('object', value))}; use Linear for ()"
        )
    return tuple(count(where, width, error) for width in cast("tuple[object, ...]", value))


@dataclass(frozen=True, slots=True)
class MLP(TorsoNetwork):
    """Fully connected layers over observations [B, inputs], one activation, a linear output layer.

    Attributes:
        inputs: Numbers in an observation.
        hidden: Widths of the hidden layers, first to last.
        activation: A registered name: "tanh", "relu" (derivative 0 at 0), "sigmoid" or a plugin's.
    """

    inputs: Count
    hidden: Annotated[tuple[int, ...], _widths] = (64, 64)
    activation: Annotated[str, registered_activation] = "tanh"
    name: ClassVar[str] = "mlp"

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """See `Network.observation_shape`."""
        return (self.inputs,)

    @property
    def width(self) -> int:
        """See `TorsoNetwork.width`."""
        return self.hidden[-1]

    @property
    def output_layer(self) -> str:
        """See `TorsoNetwork.output_layer`: the number after the hidden layers'."""
        return str(len(self.hidden))

    def torso_parameters(self) -> dict[str, Parameter]:
        """See `TorsoNetwork.torso_parameters`."""
        # The gain is that of the activation after the layer.
        gain = activation(self.activation).gain
        parameters: dict[str, Parameter] = {}
        for layer, (inputs, width) in enumerate(itertools.pairwise((self.inputs, *self.hidden))):
            parameters |= affine_parameters(str(layer), inputs, width, gain)
        return parameters

    def torso(self, xp: ArrayNamespace, parameters: Parameters, observations: Native) -> Native:
        """See `TorsoNetwork.torso`."""
        function, features = activation(self.activation), observations
        for layer in range(len(self.hidden)):
            features = function.value(xp, affine(xp, parameters, str(layer), features))
        return features


@dataclass(frozen=True, slots=True)
class Adopted(Network):
    """A user's own network; only the backend that adopted it can run it.

    Attributes:
        description: Its type, for messages.
        shapes: Name and shape of every parameter in the network's order, critic and head included.
    """

    description: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    name: ClassVar[str] = "adopted"
    has_torso: ClassVar[bool] = True  # the user's module decides what its critic shares

    def __str__(self) -> str:
        """Return the description alone: there may be hundreds of parameters."""
        return f"Adopted({self.description})"

    @property
    def observation_shape(self) -> None:
        """See `Network.observation_shape`: only the network itself can tell."""
        return

    def parameters(self, outputs: int, gain: float) -> NoReturn:
        """See `Network.parameters`; raises SpecError, since the network has its parameters."""
        rule = "a network that can be built"
        raise SpecError(f"PolicySpec: expected {rule}, got {self}; pass it to `adopt`")

    def forward(self, xp: ArrayNamespace, parameters: Parameters, observations: Native) -> NoReturn:
        """See `Network.forward`; raises SpecError, since the formula is in one framework."""
        rule = "a network with a formula"
        raise SpecError(f"PolicySpec: expected {rule}, got {self}; ask the policy that has it")


def affine_parameters(layer: str, inputs: int, outputs: int, gain: float) -> dict[str, Parameter]:
    """Return an affine layer's weight, which starts with the gain, and its bias, 0 at first."""
    weight, bias = Parameter((inputs, outputs), gain), Parameter((outputs,))
    return {f"{layer}.weight": weight, f"{layer}.bias": bias}


def affine(xp: ArrayNamespace, parameters: Parameters, layer: str, x: Native) -> Native:
    """Return [B, outputs], the affine layer of that name applied to `x`, [B, inputs]."""
    return xp.matmul(x, parameters[f"{layer}.weight"]) + parameters[f"{layer}.bias"]
