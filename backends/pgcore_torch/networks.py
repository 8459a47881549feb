"""Networks as torch.nn modules: those of a spec, and the user's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pgcore.autodiff.adoption import refusal
from pgcore.data.activations import Activation, Relu, Sigmoid, Tanh, activation
from pgcore.data.networks import MLP, Linear, Network, Table
from pgcore.data.spec import PolicySpec
from pgcore.errors import PgcoreError, SpecError
from pgcore_torch.xp import xp

__all__ = [
    "BATCH_NORM",
    "AdoptedModule",
    "FormulaModule",
    "PolicyModule",
    "make_module",
    "own_parameters",
    "stochastic_layers",
]

# The networks that are layers of `torch.nn`, one after the other.
LAYERED = (Table, Linear, MLP)

# The layers of the activations that `torch.nn` has, and the functions behind them.
ACTIVATIONS: dict[type[Activation], type[nn.Module]] = {
    Tanh: nn.Tanh,
    Relu: nn.ReLU,
    Sigmoid: nn.Sigmoid,
}
FUNCTIONS: dict[type[nn.Module], Any] = {
    nn.Tanh: torch.tanh,
    nn.ReLU: torch.relu,
    nn.Sigmoid: torch.sigmoid,
}

DROPOUT = nn.modules.dropout._DropoutNd  # noqa: SLF001 - the one base of all of them
BATCH_NORM = nn.modules.batchnorm._BatchNorm  # noqa: SLF001 - the one base of all of them


class PolicyModule(nn.Module):
    """A spec's network, critic and head parameters.

    Attributes:
        torso: The hidden layers that a shared critic shares; nothing for any other spec.
        network: Observations, or the torso's output, to the head's outputs.
        critic: The same to the critic's outputs; None without a critic.
        head: The head's own parameters.
    """

    def __init__(self, spec: PolicySpec, dtype: torch.dtype, device: torch.device) -> None:
        """Build the layers, uninitialised."""
        super().__init__()
        network, shared = spec.network, spec.critic == "shared"
        self.torso = nn.Sequential(*hidden_layers(network, dtype, device)) if shared else None
        self.network = whole_network(network, spec.head.outputs, dtype, device, torso=not shared)
        self.critic = None
        if spec.critic != "none":
            self.critic = whole_network(
                network, spec.critic_outputs, dtype, device, torso=not shared
            )
        self.state_values = spec.critic_values == "state"
        self.head = nn.ParameterDict(own_parameters(spec, dtype, device))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return [N, outputs] and, with a critic, [N] or [N, A] values."""
        return self.computed(dict(self.named_parameters()), observations)

    def computed(
        self, parameters: Mapping[str, Tensor], observations: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return what `forward` does, with these tensors by the module's own names: layers are not called one by one, which takes longer."""
        features = (
            observations
            if self.torso is None
            else applied(self.torso, "torso", parameters, observations)
        )
        outputs = applied(self.network, "network", parameters, features)
        if self.critic is None:
            return outputs, None
        values = applied(self.critic, "critic", parameters, features)
        return outputs, values.squeeze(1) if self.state_values else values


def applied(network: nn.Module, prefix: str, parameters: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Return what a table, or layers one after the other, make of x with these parameters."""
    if isinstance(network, nn.Embedding):
        return functional.embedding(x, parameters[f"{prefix}.weight"])
    assert isinstance(network, nn.Sequential)
    for number, layer in enumerate(network):
        if isinstance(layer, nn.Linear):
            x = functional.linear(
                x, parameters[f"{prefix}.{number}.weight"], parameters[f"{prefix}.{number}.bias"]
            )
        else:
            x = FUNCTIONS.get(type(layer), layer)(x)
    return x


class Elementwise(nn.Module):
    """An activation that `torch.nn` has no layer of."""

    def __init__(self, function: Activation) -> None:
        """Keep the function."""
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return its value."""
        return self.function.value(xp, x)


class FormulaModule(nn.Module):
    """A spec whose network is run as the formula that it is.

    Attributes:
        weights: Parameters of network and critic in canonical shapes; names have "/" where canonical ones have ".".
        head: The head's own parameters.
    """

    def __init__(self, spec: PolicySpec, dtype: torch.dtype, device: torch.device) -> None:
        """Make the parameters, uninitialised."""
        super().__init__()
        self.spec = spec
        self.weights = nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
                for name, shape in spec.parameter_shapes.items()
                if not name.startswith("head.")
            }
        )
        self.head = nn.ParameterDict(own_parameters(spec, dtype, device))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `PolicyModule.forward`."""
        return self.computed(dict(self.named_parameters()), observations)

    def computed(
        self, parameters: Mapping[str, Tensor], observations: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See `PolicyModule.computed`."""
        named = {
            name.removeprefix("weights.").replace("/", "."): value
            for name, value in parameters.items()
        }
        outputs, values = self.spec.apply(xp, named, observations)
        return outputs, values.squeeze(
            1
        ) if values is not None and self.spec.critic_values == "state" else values


def make_module(
    spec: PolicySpec, dtype: torch.dtype, device: torch.device
) -> PolicyModule | FormulaModule:
    """Return a spec's module, uninitialised: of `torch.nn`'s layers where those are known to be the network."""
    # A subclass may compute something else, so the type must be the very one.
    return (PolicyModule if type(spec.network) in LAYERED else FormulaModule)(spec, dtype, device)


class AdoptedModule(nn.Module):
    """The user's own network and critic, with the head's parameters beside them.

    Attributes:
        network: As it was given.
        critic: As it was given; None without one, or where the network returns the values as well.
        head: The head's own parameters.
    """

    def __init__(
        self,
        network: nn.Module,
        critic: nn.Module | None,
        head: dict[str, nn.Parameter],
        *,
        shared: bool,
    ) -> None:
        """Keep the modules."""
        super().__init__()
        self.network = network
        self.critic = critic
        self.head = nn.ParameterDict(head)
        self.shared = shared
        self.stochastic = [
            *stochastic_layers(network),
            *([] if critic is None else stochastic_layers(critic)),
        ]

    def forward(self, observations: Tensor) -> tuple[Any, Any]:
        """Return what the network and the critic return; nobody has looked at it yet."""
        for layer in self.stochastic:
            if layer.training:
                raise SpecError(
                    f"{type(self.network).__name__}: expected {type(layer).__name__} in evaluation mode, as it was when the module was adopted, "
                    "got training mode; call .eval() on it"
                )
        # A module may change its input in place: each gets its own.
        values = None if self.critic is None else called(self.critic, observations.clone())
        outputs = called(self.network, observations)
        if self.shared and isinstance(outputs, tuple) and len(outputs) == 2:
            outputs, values = outputs
        if (
            torch.is_grad_enabled()
            and isinstance(outputs, Tensor)
            and outputs.is_floating_point()
            and not outputs.requires_grad
        ):
            raise SpecError(
                f"{type(self.network).__name__}: expected outputs that carry a gradient, got detached ones; compute them without torch.no_grad() "
                "and without .detach()"
            )
        return outputs, values

    def mode(self) -> tuple[bool, bool]:
        """Return whether network and critic are in training mode."""
        return self.network.training, self.critic is not None and self.critic.training

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Put back buffers and random states that running the modules changes, and raise SpecError where a buffer was one of them."""
        kept: dict[str, tuple[Tensor, Tensor]] = {
            name: (value, value.detach().clone()) for name, value in self.named_buffers()
        }
        devices = {value.device for value in self.parameters()} - {torch.device("cpu")}
        kind = next((device.type for device in devices), "cuda")
        with torch.random.fork_rng([device.index for device in devices], device_type=kind):
            refused: SpecError | None = None
            try:
                yield
            except SpecError as error:
                refused = error  # a buffer that changes is the reason, where one does
            finally:
                changed = [
                    name
                    for name, (value, old) in kept.items()
                    if not same(self.get_buffer(name), old)
                ]
                for name in changed:
                    self.put_back(name, *kept[name])
        if changed:
            raise SpecError(
                f"{type(self.network).__name__}: expected buffers that stay as they are, got one that a call changes, {changed[0]}; pass "
                "evaluation_mode=True, or call .eval() on the module"
            ) from refused
        if refused is not None:
            raise refused

    @torch.no_grad()
    def put_back(self, name: str, value: Tensor, old: Tensor) -> None:
        """Make a buffer the tensor that it was, with the numbers that it had."""
        value.copy_(old)
        owner, _, own = name.rpartition(".")
        setattr(self.get_submodule(owner), own, value)


def called(module: nn.Module, observations: Tensor) -> Any:
    """Return what a user's module makes of observations, or raise BatchError, naming it, where it fails."""
    try:
        return module(observations)
    except (PgcoreError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise refusal(f"torch {type(module).__name__}", observations, error) from error


def same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are equal, with NaN equal to itself."""
    return (
        left.shape == right.shape
        and left.dtype == right.dtype
        and torch.allclose(left, right, 0.0, 0.0, equal_nan=True)
    )


def stochastic_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers whose outputs in training mode are no function of one step's observation alone."""
    return [
        layer
        for layer in module.modules()
        if (isinstance(layer, DROPOUT) and layer.p > 0)
        or isinstance(layer, BATCH_NORM | nn.RReLU)
        or (isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.dropout > 0)
    ]


def own_parameters(
    spec: PolicySpec, dtype: torch.dtype, device: torch.device
) -> dict[str, nn.Parameter]:
    """Return the head's own parameters at their initial values."""
    initial = spec.head.initial_parameters()
    return {
        name: nn.Parameter(torch.tensor(value, dtype=dtype, device=device))
        for name, value in initial.items()
    }


def hidden_layers(network: Network, dtype: torch.dtype, device: torch.device) -> list[nn.Module]:
    """Return a network's hidden layers, each followed by its activation."""
    if not isinstance(network, MLP):
        return []
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise((network.inputs, *network.hidden)):
        layers += [linear(inputs, outputs, dtype, device), activation_layer(network.activation)]
    return layers


def activation_layer(name: str) -> nn.Module:
    """Return the layer of a registered activation."""
    function = activation(name)
    layer = ACTIVATIONS.get(type(function))
    return Elementwise(function) if layer is None else layer()


def whole_network(
    network: Network, outputs: int, dtype: torch.dtype, device: torch.device, *, torso: bool
) -> nn.Module:
    """Return a network with an output layer of its own, and with hidden layers unless they are elsewhere."""
    if isinstance(network, Table):
        return nn.utils.skip_init(nn.Embedding, network.states, outputs, dtype=dtype, device=device)
    assert isinstance(network, Linear | MLP)
    hidden = hidden_layers(network, dtype, device) if torso else []
    width = network.hidden[-1] if network.hidden else network.inputs
    return nn.Sequential(*hidden, linear(width, outputs, dtype, device))


def linear(inputs: int, outputs: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return an uninitialised linear layer: nothing is drawn from PyTorch's random state."""
    return nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=dtype, device=device)
