"""A module's parameters: tensors, canonical names and canonical shapes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors  # twice as fast as the public ways

from pgcore.autodiff.parameters import AutodiffParameters
from pgcore.data.spec import PolicySpec
from pgcore.data.spec_checks import check_parameters
from pgcore.errors import ParameterError, SpecError
from pgcore.interfaces.parameters import Layout
from pgcore.interfaces.parameters import flat as flat_arrays
from pgcore.validation.arrays import Array
from pgcore_torch.networks import AdoptedModule, FormulaModule, PolicyModule

__all__ = [
    "TorchParameters",
    "adopted_parameters",
    "canonical",
    "check_current",
    "flat",
    "from_canonical",
    "native_parameters",
]


class TorchParameters(AutodiffParameters):
    """See `AutodiffParameters`.

    Attributes:
        module: The torch.nn module.
        native: The parameters by canonical name.
        device: The parameters' device.
    """

    module: PolicyModule | FormulaModule | AdoptedModule
    native: dict[str, Tensor]
    device: torch.device
    _adopted: bool
    _verbatim: bool
    _dtype: torch.dtype

    def parameters(self) -> dict[str, Array]:
        """See `Parameters.parameters`."""
        self._check_current()
        return super().parameters()

    def load(self, parameters: Mapping[str, ArrayLike]) -> None:
        """See `Parameters.load`."""
        checked = check_parameters(self.spec, parameters, self.dtype)
        self._check_current()
        self.assign(self.leaves(flat_arrays(checked)))

    @torch.no_grad()
    def assign(self, values: Mapping[str, Tensor]) -> None:
        """Copy native values into the parameters."""
        for name, value in self.native.items():
            value.copy_(values[name])

    def leaves(self, vector: Array) -> dict[str, Tensor]:
        """See `AutodiffParameters.leaves`."""
        return from_canonical(vector, self.native, self.layout, verbatim=self._verbatim)

    def canonical(self, name: str, leaf: Tensor) -> Array:
        """See `AutodiffParameters.canonical`."""
        return np.array(
            canonical(name, leaf.detach(), verbatim=self._verbatim).cpu().numpy(), order="C"
        )

    def to_numpy(self, native: Tensor) -> Array:
        """See `AutodiffParameters.to_numpy`."""
        return native.detach().cpu().numpy()

    def _check_current(self) -> None:
        if isinstance(self.module, AdoptedModule):
            check_current(self.module, self.native, self._dtype, self.device)


def native_parameters(spec: PolicySpec, module: PolicyModule | FormulaModule) -> dict[str, Tensor]:
    """Return a spec's tensors by canonical name, in canonical order.

    The weights of PyTorch's layers are [out, in].
    """
    tensors: dict[str, Tensor] = {f"head.{name}": value for name, value in module.head.items()}
    if isinstance(module, FormulaModule):
        tensors |= {name.replace("/", "."): value for name, value in module.weights.items()}
        return {name: tensors[name] for name in spec.parameter_shapes}
    # The layers of a shared torso go by the network's numbers, not by the critic's.
    torso = [] if module.torso is None else linear_layers(module.torso)
    for prefix, network in {"network": module.network, **module.critics()}.items():
        below = torso if prefix == "network" else []
        if isinstance(network, nn.Embedding):
            tensors[f"{prefix}.table"] = network.weight
        for number, layer in enumerate([*below, *linear_layers(network)]):
            tensors[f"{prefix}.{number}.weight"] = layer.weight
            tensors[f"{prefix}.{number}.bias"] = layer.bias
    return {name: tensors[name] for name in spec.parameter_shapes}


def adopted_parameters(module: AdoptedModule) -> dict[str, Tensor]:
    """Return an adopted module's trainable tensors by its own names.

    The critic's and the head's have a prefix. A tensor that network and critic share has the
    network's name.

    Raises:
        SpecError: two tensors would have one name, there are none, or dtype or device differs.
        ParameterError: one of them is NaN or infinite.
    """
    where = f"torch.adopt {type(module.network).__name__}"
    tensors = trainable(module.network, "")
    if not tensors:
        raise SpecError(
            f"{where}: expected a module with parameters to train, got none; "
            "adopt one that has some"
        )
    prefixed: dict[str, Tensor] = {}
    if module.critic is not None:
        # A shared tensor is told by its identity, since its names differ.
        shared = {id(value) for value in tensors.values()}
        of_critic = trainable(module.critic, "critic.")
        prefixed = {name: value for name, value in of_critic.items() if id(value) not in shared}
    prefixed |= {f"head.{name}": value for name, value in module.head.items()}
    if twice := [name for name in prefixed if name in tensors]:
        raise SpecError(
            f"{where}: expected {twice[0]} to name one parameter, got two; "
            "rename the module's own attribute"
        )
    tensors |= prefixed
    first = next(iter(tensors.values()))
    for name, value in tensors.items():
        check_tensor(where, name, value, first)
    return tensors


def trainable(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return a module's trainable tensors by prefixed name."""
    return {
        f"{prefix}{name}": value for name, value in module.named_parameters() if value.requires_grad
    }


def check_tensor(where: str, name: str, value: Tensor, first: Tensor) -> None:
    """Refuse a parameter that cannot be trained beside the first.

    Raises:
        SpecError: it has no shape yet, or its dtype or device is not the first's.
        ParameterError: it holds NaN or infinity.
    """
    # In this order: each check needs those before it.
    if nn.parameter.is_lazy(value):
        raise SpecError(
            f"{where}: expected parameters that have a shape, got {name} without; "
            "call the module once"
        )
    if value.dtype not in (torch.float32, torch.float64) or value.dtype != first.dtype:
        raise SpecError(
            f"{where}: expected parameters all float32 or all float64, got {name} {value.dtype}; "
            "call .float() or .double() on the module"
        )
    if value.device != first.device or value.is_meta:
        raise SpecError(
            f"{where}: expected parameters on one device that holds numbers, "
            f"got {name} on {value.device}; move the module with .to()"
        )
    if not torch.isfinite(value).all():
        raise ParameterError(
            f"{where}: expected finite parameters, got NaN or infinity in {name}; "
            "load a good checkpoint"
        )


def check_current(
    module: AdoptedModule, native: dict[str, Tensor], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise ParameterError unless an adopted module still trains the tensors of its adoption.

    Args:
        module: The module as it is.
        native: The tensors of its adoption, by name.
        dtype: Their dtype then.
        device: Their device then.
    """
    where = f"torch {type(module.network).__name__}"
    # A tensor may have several names, and any of them may be the one of its adoption.
    current: dict[str, Tensor] = {f"head.{name}": value for name, value in module.head.items()}
    if module.critic is not None:
        for name, value in module.critic.named_parameters(remove_duplicate=False):
            current[f"critic.{name}"] = value
    current |= dict(module.network.named_parameters(remove_duplicate=False))
    for name, value in native.items():
        if current.get(name) is not value:
            raise ParameterError(
                f"{where}: expected the parameters that it was adopted with, "
                f"got {'another' if name in current else 'no'} {name}; "
                "adopt the module again once its layers are changed"
            )
        if value.dtype != dtype or value.device != device or not value.requires_grad:
            state = f"{value.dtype} on {value.device}{'' if value.requires_grad else ', frozen'}"
            raise ParameterError(
                f"{where}: expected parameters to train in {dtype} on {device}, "
                f"as they were adopted, got {name} {state}; "
                "change it back, or adopt the module again"
            )


def canonical(name: str, tensor: Tensor, *, verbatim: bool) -> Tensor:
    """Return a parameter, or its gradient, in canonical shape.

    Args:
        name: Its canonical name.
        tensor: In the module's shape.
        verbatim: Whether the module's shapes are canonical; layers' weights are [out, in].
    """
    return tensor.mT if not verbatim and name.endswith(".weight") else tensor


def from_canonical(
    vector: Array | Tensor, like: dict[str, Tensor], layout: Layout, *, verbatim: bool
) -> dict[str, Tensor]:
    """Return views of a canonical vector in the module's shapes.

    Args:
        vector: [D] in canonical order.
        like: The module's parameters by name, whose order and devices the result has.
        layout: The places of the parameters in the vector.
        verbatim: See `canonical`.
    """
    # A copy, since the vector may be read-only.
    tensor = vector if isinstance(vector, Tensor) else torch.from_numpy(np.array(vector))
    views = layout.named(tensor)
    return {
        name: canonical(name, views[name], verbatim=verbatim).to(value.device)
        for name, value in like.items()
    }


def flat(leaves: dict[str, Tensor]) -> Tensor:
    """Return all entries in one vector."""
    return _flatten_dense_tensors(tuple(leaves.values()))


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a module, in order."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
