"""What a policy is: a network, a head and, where wanted, a critic, as plain frozen data that goes to JSON and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pgcore.data.networks import (
    MLP,
    Adopted,
    Linear,
    Network,
    Parameter,
    Table,
    TorsoNetwork,
    affine,
    affine_parameters,
)
from pgcore.errors import SpecError
from pgcore.heads import Head
from pgcore.registry.registry import load_class
from pgcore.validation.fields import one_of
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["MLP", "Adopted", "Linear", "Network", "PolicySpec", "Table", "under"]

MakeWeight = Callable[[tuple[int, ...], float], NDArray[Any]]

# The name of the layer that a critic on a shared torso has for its own.
SHARED = "0"

CRITICS = ("none", "separate", "shared")
CRITIC_VALUES = ("state", "action")


@dataclass(frozen=True, slots=True)
class PolicySpec:
    """A policy's architecture; parameters are a backend's.

    Attributes:
        network: `Table`, `Linear`, `MLP` or a plugin's `Network`; the head says how many outputs it has.
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
                f"PolicySpec.network: expected a Network such as MLP(4), got {self.network!r}; build one"
            )
        if not isinstance(cast("object", self.head), Head):
            raise SpecError(
                f"PolicySpec.head: expected a Head such as Categorical(2), got {self.head!r}; build one"
            )
        one_of("PolicySpec.critic", self.critic, CRITICS)
        if self.critic == "shared" and not self.network.has_torso:
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
                "network": {
                    "name": self.network.name,
                    **dataclasses.asdict(cast("Any", self.network)),
                },
                "head": {"name": self.head.name, **dataclasses.asdict(cast("Any", self.head))},
                "critic": self.critic,
                "critic_values": self.critic_values,
            }
        )

    @staticmethod
    def from_json(text: str) -> PolicySpec:
        """Return the spec that `to_json` wrote; networks and heads are looked up by name in the registry.

        Raises:
            SpecError: the text is not JSON of that form.
            UnknownNameError: no network or no head of that name is registered.
            PluginError: what is registered under the name is no network, or no head.
        """
        try:
            data: dict[str, Any] = json.loads(text)
            if data["network"]["name"] == Adopted.name:
                raise SpecError(
                    "PolicySpec.from_json: expected a network that can be built, got an adopted one; adopt it again and load the file into "
                    "that policy: pgcore.load(path, into=policy)"
                )
            network, head = dict(data["network"]), dict(data["head"])
            network_name, head_name = str(network.pop("name")), str(head.pop("name"))
            critic, values = str(data["critic"]), str(data.get("critic_values", "state"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SpecError(
                f"PolicySpec.from_json: expected what to_json writes, got {str(text)[:80]!r} ({error}); write it again"
            ) from error
        network_type: Any = load_class("networks", network_name, Network)
        head_type: Any = load_class("heads", head_name, Head)
        fields = {name: _with_tuples(value) for name, value in network.items()}
        try:
            return PolicySpec(network_type(**fields), head_type(**head), critic, values)
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

        Weights are orthogonal: their gain is 0.01 in the policy's output layer, 1 in the critic's and
        the activation's, such as sqrt(2), in hidden layers. Biases and tables are 0. Each array has a
        random stream of its own, so adding a critic leaves the policy as it was.

        Raises:
            SpecError: the seed is not an integer of at least 0, or the network is adopted and has its own.

        Source: Saxe et al. 2014, arXiv:1312.6120; the gains are those of OpenAI Baselines' PPO.
        """
        if (
            isinstance(seed, bool)
            or not isinstance(cast("object", seed), int | np.integer)
            or seed < 0
        ):
            raise SpecError(f"seed: expected an integer of at least 0, got {seed!r}; give one")
        streams = iter(range(2**31))

        def orthogonal(shape: tuple[int, ...], gain: float) -> NDArray[Any]:
            rng = np.random.Generator(
                np.random.Philox(np.random.SeedSequence([int(seed), next(streams)]))
            )
            tall = rng.standard_normal((max(shape), min(shape)))
            q, r = np.linalg.qr(tall)
            q *= np.sign(np.diag(r))
            return np.ascontiguousarray(gain * (q if shape[0] >= shape[1] else q.T))

        return self._layers(orthogonal)

    def apply(
        self, xp: ArrayNamespace, parameters: Mapping[str, Native], observations: Native
    ) -> tuple[Native, Native]:
        """Return the outputs of network and critic, for backends that differentiate by themselves.

        Args:
            xp: The backend's array functions.
            parameters: Native arrays by canonical name, in canonical shapes.
            observations: [B, ...] as the network takes them.

        Returns:
            [B, outputs] for the head, and [B, critic outputs] or None without a critic.
        """
        network = self.network
        actor = under("network", parameters)
        if self.critic == "none":
            return network.forward(xp, actor, observations), None
        critic = under("critic", parameters)
        if self.critic == "separate":
            return network.forward(xp, actor, observations), network.forward(
                xp, critic, observations
            )
        assert isinstance(network, TorsoNetwork)
        features = network.torso(xp, actor, observations)
        outputs = affine(xp, actor, network.output_layer, features)
        return outputs, affine(xp, critic, SHARED, features)

    def _layers(self, weight: MakeWeight) -> dict[str, NDArray[Any]]:
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

    def _arrays(self, weight: MakeWeight) -> dict[str, NDArray[Any]]:
        parameters: dict[str, NDArray[Any]] = {}
        for name, (shape, gain, value) in self._declared().items():
            parameters[name] = (
                np.full(shape, value, np.float64) if gain is None else weight(shape, gain)
            )
        return parameters | {
            f"head.{name}": value for name, value in self.head.initial_parameters().items()
        }

    def _declared(self) -> dict[str, Parameter]:
        """Return the parameters of network and critic by canonical name, in canonical order."""
        network = self.network
        declared = {
            f"network.{name}": each
            for name, each in network.parameters(self.head.outputs, 0.01).items()
        }
        critic: dict[str, Parameter] = {}
        if self.critic == "separate":
            critic = network.parameters(self.critic_outputs, 1.0)
        elif self.critic == "shared":
            critic = affine_parameters(
                SHARED, cast("TorsoNetwork", network).width, self.critic_outputs, 1.0
            )
        return declared | {f"critic.{name}": each for name, each in critic.items()}


def under(prefix: str, parameters: Mapping[str, Native]) -> dict[str, Native]:
    """Return the parameters whose names begin with a prefix and a dot, without both."""
    start = len(prefix) + 1
    return {
        name[start:]: value for name, value in parameters.items() if name.startswith(f"{prefix}.")
    }


def _zeros(shape: tuple[int, ...], _gain: float) -> NDArray[Any]:
    return np.zeros(shape)


def _with_tuples(value: object) -> Any:
    """Return what JSON reads, with tuples in place of its lists: a spec can be hashed."""
    if isinstance(value, list):
        return tuple(map(_with_tuples, cast("list[object]", value)))
    return value
