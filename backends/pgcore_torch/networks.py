"""Networks as torch.nn modules, built from a spec or adopted from the user."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pgcore.autodiff.adoption import refusal
from pgcore.autodiff.inputs import each
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
    "head_parameters",
    "make_module",
    "stochastic_layers",
]

# The networks that are layers of `torch.nn`, one after the other.
LAYERED = (Table, Linear, MLP)

# The activations that `torch.nn` has layers of, and the functions behind the layers.
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
        critic: The same to the critic's outputs, of twins a module of both; None without a critic.
        head: The head's own parameters.
    """

    def __init__(self, spec: PolicySpec, dtype: torch.dtype, device: torch.device) -> None:
        """Build the layers, uninitialised."""
        super().__init__()
        # A shared torso is a module of its own, under two output layers.
        network, shared = spec.network, spec.critic == "shared"
        self.torso = nn.Sequential(*hidden_layers(network, dtype, device)) if shared else None
        self.network = whole_network(network, spec.head.outputs, dtype, device, torso=not shared)
        self.critic = None
        width = spec.critic_outputs // max(len(spec.critics), 1)
        critics = {
            prefix.rpartition(".")[2]: whole_network(
                network, width, dtype, device, torso=not shared
            )
            for prefix in spec.critics
        }
        if critics:
            self.critic = nn.ModuleDict(critics) if len(critics) > 1 else critics["critic"]
        self.state_values = spec.critic_values == "state"
        self.head = nn.ParameterDict(head_parameters(spec, dtype, device))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return [N, outputs] and a critic's values, [N] or [N, A]."""
        return self.computed(dict(self.named_parameters()), observations)

    def computed(
        self, parameters: Mapping[str, Tensor], observations: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the results of `forward` at other parameters.

        Layers are not called one by one, which takes longer.

        Args:
            parameters: Tensors by the module's own names.
            observations: [N, ...].
        """
        features = observations
        if self.torso is not None:
            features = apply_layers(self.torso, "torso", parameters, observations)
        outputs = apply_layers(self.network, "network", parameters, features)
        values = [
            apply_layers(critic, prefix, parameters, features)
            for prefix, critic in self.critics().items()
        ]
        if len(values) > 1:
            return outputs, torch.cat(values, 1)
        if not values:
            return outputs, None
        return outputs, values[0].squeeze(1) if self.state_values else values[0]

    def critics(self) -> dict[str, nn.Module]:
        """Return the critics by the prefix of their parameters."""
        if isinstance(self.critic, nn.ModuleDict):
            return {f"critic.{name}": critic for name, critic in self.critic.items()}
        return {} if self.critic is None else {"critic": self.critic}


def apply_layers(
    network: nn.Module, prefix: str, parameters: Mapping[str, Tensor], x: Tensor
) -> Tensor:
    """Return a table's rows, or the output of layers one after the other.

    Args:
        network: The table or the layers.
        prefix: Of the network's parameters in the module.
        parameters: Tensors by the module's own names.
        x: [N, ...] the input.
    """
    if isinstance(network, nn.Embedding):
        return functional.embedding(x, parameters[f"{prefix}.weight"])
    assert isinstance(network, nn.Sequential)
    for number, layer in enumerate(network):
        # Activations have no parameters, so that the layer itself may be called.
        if isinstance(layer, nn.Linear):
            name = f"{prefix}.{number}"
            x = functional.linear(x, parameters[f"{name}.weight"], parameters[f"{name}.bias"])
        else:
            x = FUNCTIONS.get(type(layer), layer)(x)
    return x


class Elementwise(nn.Module):
    """An activation without a layer in `torch.nn`."""

    def __init__(self, function: Activation) -> None:
        """Keep the function."""
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Return its value."""
        return self.function.value(xp, x)


class FormulaModule(nn.Module):
    """A spec's network, critic and head parameters, computed by the network's formula.

    Attributes:
        weights: Parameters of network and critic in canonical shapes. Their names have "/" for
            the "." of canonical names, which a module's own may not contain.
        head: The head's own parameters.
    """

    def __init__(self, spec: PolicySpec, dtype: torch.dtype, device: torch.device) -> None:
        """Make the parameters, uninitialised."""
        super().__init__()
        self.spec = spec
        self.weights = nn.ParameterDict()
        # The head's are apart, as in every other module of a policy.
        for name, shape in spec.parameter_shapes.items():
            if not name.startswith("head."):
                value = torch.empty(shape, dtype=dtype, device=device)
                self.weights[name.replace(".", "/")] = nn.Parameter(value)
        self.head = nn.ParameterDict(head_parameters(spec, dtype, device))

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor | None]:
        """See `PolicyModule.forward`."""
        return self.computed(dict(self.named_parameters()), observations)

    def computed(
        self, parameters: Mapping[str, Tensor], observations: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """See `PolicyModule.computed`."""
        canonical = {
            name.removeprefix("weights.").replace("/", "."): value
            for name, value in parameters.items()
        }
        outputs, values = self.spec.apply(xp, canonical, observations)
        # One value a step is [N]; action values stay [N, A].
        if values is not None and self.spec.critic_values == "state":
            values = values.squeeze(1)
        return outputs, values


def make_module(
    spec: PolicySpec, dtype: torch.dtype, device: torch.device
) -> PolicyModule | FormulaModule:
    """Return a spec's uninitialised module, of layers for a built-in network."""
    # A subclass may compute something else, so the type must be the very one.
    return (PolicyModule if type(spec.network) in LAYERED else FormulaModule)(spec, dtype, device)


class AdoptedModule(nn.Module):
    """The user's own network and critic, with the head's parameters beside them.

    Attributes:
        network: The user's network.
        critic: The user's critic; None without one, or with a network that returns values too.
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
        """Keep the modules.

        Args:
            network: See the attributes.
            critic: See the attributes.
            head: The head's own parameters by name.
            shared: Whether the network returns outputs and values.
        """
        super().__init__()
        self.network = network
        self.critic = critic
        self.head = nn.ParameterDict(head)
        self.shared = shared
        # Listed once, since every call looks at their modes.
        self.stochastic = stochastic_layers(network)
        if critic is not None:
            self.stochastic += stochastic_layers(critic)

    def forward(self, observations: Any) -> tuple[Any, Any]:
        """Return the results of network and critic, whose shapes are not checked yet."""
        for layer in self.stochastic:
            if layer.training:
                raise SpecError(
                    f"{type(self.network).__name__}: expected {type(layer).__name__} in evaluation "
                    "mode, as it was when the module was adopted, got training mode; "
                    "call .eval() on it"
                )
        # A module may change its input in place, so that the critic has a copy.
        values = None
        if self.critic is not None:
            values = call(self.critic, each(torch.clone, observations))
        outputs = call(self.network, observations)
        if self.shared and isinstance(outputs, tuple) and len(outputs) == 2:
            outputs, values = outputs
        if torch.is_grad_enabled() and is_detached(outputs):
            raise SpecError(
                f"{type(self.network).__name__}: expected outputs that carry a gradient, "
                "got detached ones; compute them without torch.no_grad() and without .detach()"
            )
        return outputs, values

    def mode(self) -> tuple[bool, bool]:
        """Return whether network and critic are in training mode."""
        return self.network.training, self.critic is not None and self.critic.training

    @contextmanager
    def preserved(self) -> Iterator[None]:
        """Put back buffers and random states that running the modules changes.

        Raises:
            SpecError: a buffer changed.
        """
        buffers: dict[str, tuple[Tensor, Tensor]] = {
            name: (value, value.detach().clone()) for name, value in self.named_buffers()
        }
        # The CPU's random state is put back always, a device's where parameters are on it.
        devices = {value.device for value in self.parameters()} - {torch.device("cpu")}
        kind = next((device.type for device in devices), "cuda")
        with torch.random.fork_rng([device.index for device in devices], device_type=kind):
            refused: SpecError | None = None
            try:
                yield
            except SpecError as error:
                refused = error  # a buffer that changes is the reason, where one does
            finally:
                changed: list[str] = []
                for name, (value, old) in buffers.items():
                    if not same(self.get_buffer(name), old):
                        changed.append(name)
                        self.put_back(name, value, old)
        if changed:
            raise SpecError(
                f"{type(self.network).__name__}: expected buffers that stay as they are, "
                f"got one that a call changes, {changed[0]}; "
                "pass evaluation_mode=True, or call .eval() on the module"
            ) from refused
        if refused is not None:
            raise refused

    @torch.no_grad()
    def put_back(self, name: str, value: Tensor, old: Tensor) -> None:
        """Make a buffer the tensor `value` again, with the numbers of `old`."""
        value.copy_(old)
        owner, _, attribute = name.rpartition(".")
        setattr(self.get_submodule(owner), attribute, value)


def is_detached(outputs: Any) -> bool:
    """Whether outputs are floating-point tensors without a gradient."""
    if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
        return False
    return not outputs.requires_grad


def call(module: nn.Module, observations: Any) -> Any:
    """Return a user's module's result, or raise BatchError with the module's name if it fails."""
    # This package's own errors, and those of memory, say enough already.
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
    """Return the layers that draw numbers or mix the batch in training mode."""
    layers: list[nn.Module] = []
    for layer in module.modules():
        # Layers with an optional dropout count where it is on.
        drops = isinstance(layer, DROPOUT) and layer.p > 0
        inside = isinstance(layer, nn.RNNBase | nn.MultiheadAttention) and layer.dropout > 0
        if drops or inside or isinstance(layer, BATCH_NORM | nn.RReLU):
            layers.append(layer)
    return layers


def head_parameters(
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
    """Return a network's module.

    Args:
        network: A built-in network.
        outputs: Number of outputs.
        dtype: Of the parameters.
        device: Of the parameters.
        torso: Whether the hidden layers are part of it.
    """
    if isinstance(network, Table):
        return nn.utils.skip_init(nn.Embedding, network.states, outputs, dtype=dtype, device=device)
    assert isinstance(network, Linear | MLP)
    hidden = hidden_layers(network, dtype, device) if torso else []
    width = network.hidden[-1] if network.hidden else network.inputs
    return nn.Sequential(*hidden, linear(width, outputs, dtype, device))


def linear(inputs: int, outputs: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return an uninitialised linear layer, without drawing from PyTorch's random state."""
    return nn.utils.skip_init(nn.Linear, inputs, outputs, dtype=dtype, device=device)
