"""A policy's architecture as frozen data that goes to JSON and back: network, head, critic."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, cast

import numpy as np

from pgcore.data import networks
from pgcore.data.networks import MLP, Adopted, Linear, Network, Table, TorsoNetwork
from pgcore.errors import SpecError
from pgcore.heads import Head
from pgcore.registry.registry import load_class, registry
from pgcore.validation.arrays import Array
from pgcore.validation.fields import (
    Checked,
    check_fields,
    choice,
    count_from_zero,
    instance_check,
    instance_of,
)
from pgcore.xp.namespace import ArrayNamespace, Native

__all__ = ["MLP", "Adopted", "Linear", "Network", "PolicySpec", "Table", "ensure_spec", "under"]

SHARED = "0"  # the layer of a critic on a shared torso, which has no other

# Gains of the output layers' weights, as in OpenAI Baselines' PPO.
POLICY_GAIN = 0.01
CRITIC_GAIN = 1.0


@dataclass(frozen=True, slots=True)
class PolicySpec(Checked):
    """A policy's architecture; parameters are a backend's.

    Attributes:
        network: `Table`, `Linear`, `MLP` or a plugin's `Network`.
        head: The action distribution.
        critic: "none", "separate" (a second network of the same shape with its own outputs) or
            "shared" (more outputs on the policy's last hidden layer).
        critic_values: "state" (one output, V(s)), "action" (one output an action of a discrete
            head, Q(s, .)) or "twin" (two action-value critics, the outputs of the first before
            those of the second). Separate twins are two networks.

    Raises:
        SpecError: a part is of the wrong kind, critic="shared" without hidden layers, or
            values of actions without a critic or with a head that cannot use them.
    """

    network: Annotated[Network, instance_of(Network, "MLP(4)")]
    head: Annotated[Head, instance_of(Head, "Categorical(2)")]
    critic: Annotated[str, choice("none", "separate", "shared")] = "none"
    critic_values: Annotated[str, choice("state", "action", "twin")] = "state"

    def __post_init__(self) -> None:
        """Check the fields, and that they go together."""
        check_fields(self)
        if self.critic == "shared" and not self.network.has_torso:
            name = type(self.network).__name__
            raise SpecError(
                f"PolicySpec.critic: expected 'none' or 'separate' for {name}, got 'shared'; "
                "hidden layers are shared, so use an MLP"
            )
        plain = self.head.enumerable and not self.head.action_values
        if self.critic_values != "state" and (self.critic == "none" or not plain):
            raise SpecError(
                f"PolicySpec.critic_values: expected 'state' for {self.head} with critic="
                f"{self.critic!r}, got {self.critic_values!r}; use a critic and a discrete head "
                "without values"
            )

    @property
    def critic_outputs(self) -> int:
        """The critic's outputs: 0 without a critic, 1 for V, one an action for Q, two for twins."""
        if self.critic == "none":
            return 0
        actions = self.head.outputs
        return {"state": 1, "action": actions, "twin": 2 * actions}[self.critic_values]

    @property
    def critics(self) -> tuple[str, ...]:
        """The prefix of the parameters of each critic; a shared one is one layer, of twins too."""
        if self.critic == "none":
            return ()
        separate_twins = self.critic == "separate" and self.critic_values == "twin"
        return ("critic.first", "critic.second") if separate_twins else ("critic",)

    def to_json(self) -> str:
        """Return the spec as one line of JSON."""
        import json  # here, since a first gradient needs none

        parts: dict[str, Any] = {}
        for name, part in (("network", self.network), ("head", self.head)):
            fields = dataclasses.asdict(cast("Any", part))
            parts[name] = {"name": _registered_name(f"{name}s", part), **fields}
        return json.dumps(parts | {"critic": self.critic, "critic_values": self.critic_values})

    @staticmethod
    def from_json(text: str) -> PolicySpec:
        """Return the spec that `to_json` wrote; the registry finds networks and heads by name.

        Raises:
            SpecError: the text is not JSON of that form.
            UnknownNameError: no network or no head of that name is registered.
            PluginError: the name's target is no network, or no head.
        """
        import json

        where = "PolicySpec.from_json"
        try:
            data: dict[str, Any] = json.loads(text)
            network, head = dict(data["network"]), dict(data["head"])
            network_name, head_name = str(network.pop("name")), str(head.pop("name"))
            # A spec without critic values has those of states.
            critic, values = str(data["critic"]), str(data.get("critic_values", "state"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            got = f"{str(text)[:80]!r} ({error})"
            raise SpecError(
                f"{where}: expected what to_json writes, got {got}; save again"
            ) from error
        if network_name == Adopted.name:
            raise SpecError(
                f"{where}: expected a network that can be built, got an adopted one; adopt it "
                "again and load the file into that policy: pgcore.load(path, into=policy)"
            )
        network_type: Any = load_class("networks", network_name, Network)
        head_type: Any = load_class("heads", head_name, Head)
        fields = {name: _with_tuples(value) for name, value in network.items()}
        try:
            return PolicySpec(network_type(**fields), head_type(**head), critic, values)
        except TypeError as error:
            rule = f"the fields of {network_type.__name__} and {head_type.__name__}"
            raise SpecError(
                f"{where}: expected {rule}, got others ({error}); save again"
            ) from error

    @property
    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """Canonical names and shapes, in canonical order: network, critic, head."""
        if isinstance(self.network, Adopted):
            return dict(self.network.shapes)
        # The code that makes parameters tells their shapes, so the two cannot disagree.
        # Zeros that nobody reads take no memory, and sizes beyond any memory are an error.
        arrays = self._arrays(
            lambda shape, _gain: np.zeros(shape), lambda _value, shape: np.zeros(shape)
        )
        return {name: value.shape for name, value in arrays.items()}

    def initial_parameters(self, seed: int) -> dict[str, Array]:
        """Return the parameters that learning starts from, float64, the same on every backend.

        Weights are orthogonal: their gain is 0.01 in the policy's output layer, 1 in the critic's
        and the activation's, such as sqrt(2), in hidden layers. Biases and tables are 0.

        Raises:
            SpecError: the seed is not an integer of at least 0, or the network is adopted.

        Source: Saxe et al. 2014, arXiv:1312.6120; the gains are those of OpenAI Baselines' PPO.
        """
        entropy = count_from_zero("seed", seed)
        # A stream for each weight matrix, so that adding a critic leaves the policy as it was.
        streams = iter(range(2**31))

        def orthogonal(shape: tuple[int, ...], gain: float) -> Array:
            seeds = np.random.SeedSequence([entropy, next(streams)])
            rng = np.random.Generator(np.random.Philox(seeds))
            # A kernel is the matrix from its windows, [h w C], to the channels.
            inputs, outputs = math.prod(shape[:-1]), shape[-1]
            sides = (max(inputs, outputs), min(inputs, outputs))
            q, r = np.linalg.qr(rng.standard_normal(sides))
            # The sign makes the decomposition unique, and q uniform over orthogonal matrices.
            q *= np.sign(np.diag(r))
            matrix = gain * (q if inputs >= outputs else q.T)
            return np.ascontiguousarray(matrix).reshape(shape)

        return self._arrays(orthogonal)

    def apply(
        self, xp: ArrayNamespace, parameters: Mapping[str, Native], observations: Native
    ) -> tuple[Native, Native]:
        """Return the outputs of network and critic, for backends that differentiate.

        Args:
            xp: The backend's array functions.
            parameters: Native arrays by canonical name, in canonical shapes.
            observations: [B, ...] as the network takes them.

        Returns:
            [B, outputs] for the head, and [B, critic outputs] or None without a critic.
        """
        network, actor = self.network, under("network", parameters)
        if self.critic == "none":
            return network.forward(xp, actor, observations), None
        if self.critic == "separate":
            values = tuple(
                network.forward(xp, under(critic, parameters), observations)
                for critic in self.critics
            )
            outputs = network.forward(xp, actor, observations)
            return outputs, values[0] if len(values) == 1 else xp.concatenate(values, 1)
        # A shared torso is computed once for both output layers.
        assert isinstance(network, TorsoNetwork)
        features = network.torso(xp, actor, observations)
        outputs = networks.affine(xp, actor, network.output_layer, features)
        return outputs, networks.affine(xp, under("critic", parameters), SHARED, features)

    def _arrays(
        self,
        make: Callable[[tuple[int, ...], float], Array],
        fill: Callable[[float, tuple[int, ...]], Array] = lambda value, shape: np.full(
            shape, value, float
        ),
    ) -> dict[str, Array]:
        """Return every parameter in canonical order.

        Args:
            make: From shape and gain to weights.
            fill: From a number and a shape to an array that holds the number everywhere.
        """
        arrays: dict[str, Array] = {}
        try:
            for part, parameters in self._declared().items():
                for name, (shape, gain, value) in parameters.items():
                    array = fill(value, shape) if gain is None else make(shape, gain)
                    arrays[f"{part}.{name}"] = array
            for name, value in self.head.initial_parameters().items():
                arrays[f"head.{name}"] = value
        except (ValueError, OverflowError, MemoryError) as error:
            raise SpecError(
                f"PolicySpec: expected sizes that fit into memory, got {self} ({error}); "
                "make the network smaller"
            ) from error
        return arrays

    def _declared(self) -> dict[str, dict[str, networks.Parameter]]:
        """Return the parameters of the network and of the critic by name, in canonical order."""
        network, outputs = self.network, self.critic_outputs
        parts = {"network": network.parameters(self.head.outputs, POLICY_GAIN)}
        if self.critic == "separate":
            count = outputs // len(self.critics)
            parts |= {critic: network.parameters(count, CRITIC_GAIN) for critic in self.critics}
        elif self.critic == "shared":
            width = cast("TorsoNetwork", network).width
            parts["critic"] = networks.affine_parameters(SHARED, width, outputs, CRITIC_GAIN)
        return parts


def under(prefix: str, parameters: Mapping[str, Native]) -> dict[str, Native]:
    """Return the parameters below a prefix such as "network", named without it and its dot."""
    start = f"{prefix}."
    names = [name for name in parameters if name.startswith(start)]
    return {name.removeprefix(start): parameters[name] for name in names}


def _registered_name(kind: str, part: Network | Head) -> str:
    """Return the name by which the registry has a part's class."""
    plugins, cls = registry(), type(part)
    rows = {row.provider.name: row.status for row in plugins.providers(kind)}
    same = [name for name in rows if name.rpartition(":")[2] == part.name]
    # The plain name first: it is the usual one, and no other plugin is imported for it.
    for name in sorted(same, key=len):
        if rows[name] == "usable" and plugins.load(kind, name) is cls:
            return name
    # Another class's name would be read back as that class; a path is refused when it is read.
    return f"{cls.__module__}:{cls.__qualname__}" if same else part.name


def _with_tuples(value: Any) -> Any:
    """Return a value from JSON with tuples in place of lists, since a spec can be hashed."""
    return tuple(map(_with_tuples, cast("list[Any]", value))) if isinstance(value, list) else value


ensure_spec = instance_check(PolicySpec, "pgcore.PolicySpec(network, head)", SpecError)
