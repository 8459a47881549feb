"""What a policy is: a network, a head and, where wanted, a critic, as plain frozen data that goes to JSON and back."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from pgcore.checks import count, one_of, set_field
from pgcore.errors import SpecError
from pgcore.heads import Head
from pgcore.registry import registry

__all__ = ["MLP", "Adopted", "Linear", "Network", "PolicySpec", "Table"]

ACTIVATIONS = ("tanh", "relu", "sigmoid")
CRITICS = ("none", "separate", "shared")
CRITIC_VALUES = ("state", "action")


@dataclass(frozen=True, slots=True)
class Table:
    """One row of outputs for each of `states` discrete states; observations are integers [B] in [0, states)."""

    states: int
    name: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        """Check the fields."""
        set_field(self, "states", count("Table.states", self.states))


@dataclass(frozen=True, slots=True)
class Linear:
    """An affine map of observations [B, inputs]."""

    inputs: int
    name: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        """Check the fields."""
        set_field(self, "inputs", count("Linear.inputs", self.inputs))

    @property
    def hidden(self) -> tuple[int, ...]:
        """No hidden layers: a linear network is the shortest MLP."""
        return ()


@dataclass(frozen=True, slots=True)
class MLP:
    """Fully connected layers over observations [B, inputs]: hidden widths, one activation, a linear output layer.

    The activation is "tanh", "relu" (derivative 0 at 0) or "sigmoid".
    """

    inputs: int
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    name: ClassVar[str] = "mlp"

    def __post_init__(self) -> None:
        """Check the fields."""
        set_field(self, "inputs", count("MLP.inputs", self.inputs))
        if not isinstance(cast("object", self.hidden), tuple | list) or not self.hidden:
            raise SpecError(
                f"MLP.hidden: expected a tuple of layer widths, got {self.hidden!r}; use Linear for no hidden layers"
            )
        set_field(self, "hidden", tuple(count("MLP.hidden", width) for width in self.hidden))
        one_of("MLP.activation", self.activation, ACTIVATIONS)


@dataclass(frozen=True, slots=True)
class Adopted:
    """A user's own network; only the backend that adopted it can run it.

    Attributes:
        description: What it is, for messages.
        shapes: Name and shape of every parameter, critic's and head's included, in the network's order.
    """

    description: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    name: ClassVar[str] = "adopted"

    def __str__(self) -> str:
        """Return the description alone: there may be hundreds of parameters."""
        return f"Adopted({self.description})"


Network = Table | Linear | MLP | Adopted
NETWORKS: dict[str, type[Table | Linear | MLP]] = {"table": Table, "linear": Linear, "mlp": MLP}


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy's architecture; parameters are a backend's.

    Attributes:
        network: `Table`, `Linear` or `MLP`; its output width is the head's.
        head: The action distribution.
        critic: "none", "separate" (a second network of the same shape with its own outputs) or "shared" (more outputs on
            the policy's last hidden layer).
        critic_values: "state" (one output, V(s)) or "action" (one output an action of a discrete head, Q(s, .)).

    Raises:
        SpecError: a part is of the wrong kind, critic="shared" without hidden layers to share, or critic_values="action" without a critic,
            with real actions, or with a head whose network gives action values already.
    """

    network: Network
    head: Head
    critic: str = "none"
    critic_values: str = "state"

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(cast("object", self.network), Network):
            raise SpecError(
                f"PolicySpec.network: expected Table, Linear or MLP, got {self.network!r}; build one of the three"
            )
        if not isinstance(cast("object", self.head), Head):
            raise SpecError(f"PolicySpec.head: expected a Head such as Categorical(2), got {self.head!r}; build one")
        one_of("PolicySpec.critic", self.critic, CRITICS)
        if self.critic == "shared" and not isinstance(self.network, MLP | Adopted):
            raise SpecError(
                f"PolicySpec.critic: expected 'none' or 'separate' for {type(self.network).__name__}, got 'shared'; "
                "a shared torso needs hidden layers, so use an MLP"
            )
        one_of("PolicySpec.critic_values", self.critic_values, CRITIC_VALUES)
        if self.critic_values == "action" and (
            self.critic == "none" or not self.head.enumerable or self.head.action_values
        ):
            raise SpecError(
                f"PolicySpec.critic_values: expected 'state' for {self.head} with critic={self.critic!r}, got 'action'; it takes a critic, and "
                "a head of numbered actions whose network gives no action values"
            )

    @property
    def critic_outputs(self) -> int:
        """How many numbers the critic gives a state: none without a critic, 1 for V, one an action for Q."""
        if self.critic == "none":
            return 0
        return self.head.outputs if self.critic_values == "action" else 1

    def to_json(self) -> str:
        """Return the spec as one line of JSON."""
        return json.dumps(
            {
                "network": {"name": self.network.name, **dataclasses.asdict(self.network)},
                "head": {"name": self.head.name, **dataclasses.asdict(cast("Any", self.head))},
                "critic": self.critic,
                "critic_values": self.critic_values,
            }
        )

    @staticmethod
    def from_json(text: str) -> PolicySpec:
        """Return the spec that `to_json` wrote; heads are looked up by name in the registry.

        Raises:
            SpecError: the text is not JSON of that form.
            UnknownNameError: no head of that name is registered.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data["network"]["name"] == Adopted.name:
                raise SpecError(
                    "PolicySpec.from_json: expected a network that can be built, got an adopted one; adopt it again and load the file into "
                    "that policy: pgcore.load(path, into=policy)"
                )
            network, head = dict(data["network"]), dict(data["head"])
            network_type, head_name = NETWORKS[network.pop("name")], str(head.pop("name"))
            critic, values = str(data["critic"]), str(data.get("critic_values", "state"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SpecError(
                f"PolicySpec.from_json: expected what to_json writes, got {str(text)[:80]!r} ({error}); write it again"
            ) from error
        head_type = cast("type[Head]", registry().load("heads", head_name))
        try:
            return PolicySpec(network_type(**network), head_type(**head), critic, values)
        except TypeError as error:
            raise SpecError(
                f"PolicySpec.from_json: expected the fields of {network_type.__name__} and {head_type.__name__}, got others ({error}); write it again"
            ) from error

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical names and shapes, in canonical order: network, critic, head."""
        if isinstance(self.network, Adopted):
            return dict(self.network.shapes)
        return {name: value.shape for name, value in self._layers(_zeros).items()}

    def initial_parameters(self, seed: int) -> dict[str, NDArray[Any]]:
        """Return the parameters that learning starts from, float64, the same on every backend.

        Weights are orthogonal with gain sqrt(2) in hidden layers, 0.01 in the policy's output layer and 1 in the critic's;
        biases and tables are 0. Each array has a random stream of its own, so adding a critic leaves the policy as it was.

        Raises:
            SpecError: the seed is not an integer of at least 0, or the network is adopted and has its own.

        Source: Saxe et al. 2014, arXiv:1312.6120; the gains are those of OpenAI Baselines' PPO.
        """
        if isinstance(seed, bool) or not isinstance(cast("object", seed), int | np.integer) or seed < 0:
            raise SpecError(f"seed: expected an integer of at least 0, got {seed!r}; give one")
        if isinstance(self.network, Adopted):
            raise SpecError(
                f"PolicySpec: expected a network that can be built, got {self.network}; pass the module to `adopt` instead"
            )
        streams = iter(range(2**31))

        def orthogonal(shape: tuple[int, ...], gain: float) -> NDArray[Any]:
            rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([int(seed), next(streams)])))
            tall = rng.standard_normal((max(shape), min(shape)))
            q, r = np.linalg.qr(tall)
            q *= np.sign(np.diag(r))
            return np.ascontiguousarray(gain * (q if shape[0] >= shape[1] else q.T))

        return self._layers(orthogonal)

    def _layers(self, weight: Any) -> dict[str, NDArray[Any]]:
        """Return every parameter in canonical order, weight matrices made by `weight(shape, gain)`.

        Raises:
            SpecError: they are too large to exist.
        """
        try:
            return self._arrays(weight)
        except (ValueError, OverflowError, MemoryError) as error:
            raise SpecError(
                f"PolicySpec: expected sizes that fit into memory, got {self} ({error}); make the network smaller"
            ) from error

    def _arrays(self, weight: Any) -> dict[str, NDArray[Any]]:
        assert not isinstance(self.network, Adopted)
        parameters = _network_layers(self.network, "network", self.head.outputs, 0.01, weight)
        if self.critic == "separate":
            parameters |= _network_layers(self.network, "critic", self.critic_outputs, 1.0, weight)
        elif self.critic == "shared":
            parameters["critic.0.weight"] = weight((cast("MLP", self.network).hidden[-1], self.critic_outputs), 1.0)
            parameters["critic.0.bias"] = np.zeros(self.critic_outputs)
        return parameters | {f"head.{name}": value for name, value in self.head.initial_parameters().items()}


def _zeros(shape: tuple[int, ...], _gain: float) -> NDArray[Any]:
    return np.zeros(shape)


def _network_layers(
    network: Table | Linear | MLP, prefix: str, outputs: int, output_gain: float, weight: Any
) -> dict[str, NDArray[Any]]:
    if isinstance(network, Table):
        return {f"{prefix}.table": np.zeros((network.states, outputs))}
    widths = (network.inputs, *network.hidden, outputs)
    parameters: dict[str, NDArray[Any]] = {}
    for layer, shape in enumerate(itertools.pairwise(widths)):
        gain = output_gain if layer == len(network.hidden) else math.sqrt(2.0)
        parameters[f"{prefix}.{layer}.weight"] = weight(shape, gain)
        parameters[f"{prefix}.{layer}.bias"] = np.zeros(shape[1])
    return parameters
