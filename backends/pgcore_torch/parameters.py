"""A module's parameters: their tensors, and their canonical names and shapes."""

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
        module: The torch.nn module that the parameters are of.
        native: The parameters by canonical name.
        device: Where they are.
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
        return {name: self.canonical(name, value) for name, value in self.native.items()}

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
    """Return the module's own tensors by canonical name, in canonical order; layers' weights are still PyTorch's [out, in]."""
    if isinstance(module, FormulaModule):
        named: dict[str, Tensor] = {
            name.replace("/", "."): value for name, value in module.weights.items()
        }
        named |= {f"head.{name}": value for name, value in module.head.items()}
        return {name: named[name] for name in spec.parameter_shapes}
    found: dict[str, Tensor] = {f"head.{name}": value for name, value in module.head.items()}
    torso = [] if module.torso is None else linear_layers(module.torso)
    for prefix, network, own_torso in (
        ("network", module.network, torso),
        ("critic", module.critic, []),
    ):
        if network is None:
            continue
        if isinstance(network, nn.Embedding):
            found[f"{prefix}.table"] = network.weight
        for number, layer in enumerate([*own_torso, *linear_layers(network)]):
            found[f"{prefix}.{number}.weight"] = layer.weight
            found[f"{prefix}.{number}.bias"] = layer.bias
    return {name: found[name] for name in spec.parameter_shapes}


def adopted_parameters(module: AdoptedModule) -> dict[str, Tensor]:
    """Return an adopted module's trainable tensors by its own names, the critic's and the head's behind a prefix.

    A tensor that network and critic share has the network's name.

    Raises:
        SpecError: two tensors would have one name, there are none, or dtype or device is not the same for all.
        ParameterError: one of them is NaN or infinite.
    """
    what = f"torch.adopt {type(module.network).__name__}"
    found: dict[str, Tensor] = {
        name: value for name, value in module.network.named_parameters() if value.requires_grad
    }
    if not found:
        raise SpecError(
            f"{what}: expected a module with parameters to train, got none; adopt one that has some"
        )
    others: dict[str, Tensor] = {f"head.{name}": value for name, value in module.head.items()}
    if module.critic is not None:
        known = {id(value) for value in found.values()}
        named: dict[str, Tensor] = {
            f"critic.{name}": value
            for name, value in module.critic.named_parameters()
            if value.requires_grad
        }
        others = {name: value for name, value in named.items() if id(value) not in known} | others
    for name in (name for name in others if name in found):
        raise SpecError(
            f"{what}: expected {name} to name one parameter, got two; rename the module's own attribute"
        )
    found |= others
    first = next(iter(found.values()))
    for name, value in found.items():
        if nn.parameter.is_lazy(value):
            raise SpecError(
                f"{what}: expected parameters that have a shape, got {name} without; call the module once"
            )
        if value.dtype not in (torch.float32, torch.float64) or value.dtype != first.dtype:
            raise SpecError(
                f"{what}: expected parameters all float32 or all float64, got {name} {value.dtype}; call .float() or .double() on the module"
            )
        if value.device != first.device or value.is_meta:
            raise SpecError(
                f"{what}: expected parameters on one device that holds numbers, got {name} on {value.device}; move the module with .to()"
            )
        if not torch.isfinite(value).all():
            raise ParameterError(
                f"{what}: expected finite parameters, got NaN or infinity in {name}; load a good checkpoint"
            )
    return found


def check_current(
    module: AdoptedModule, native: dict[str, Tensor], dtype: torch.dtype, device: torch.device
) -> None:
    """Raise ParameterError unless an adopted module still trains the tensors that it was adopted with, as they were."""
    what = f"torch {type(module.network).__name__}"
    own: dict[str, Tensor] = {f"head.{name}": value for name, value in module.head.items()}
    if module.critic is not None:
        own |= {
            f"critic.{name}": value
            for name, value in module.critic.named_parameters(remove_duplicate=False)
        }
    own |= dict(module.network.named_parameters(remove_duplicate=False))
    for name, value in native.items():
        if own.get(name) is not value:
            raise ParameterError(
                f"{what}: expected the parameters that it was adopted with, got {'another' if name in own else 'no'} {name}; adopt the module "
                "again once its layers are changed"
            )
        if value.dtype != dtype or value.device != device or not value.requires_grad:
            found = f"{value.dtype} on {value.device}{'' if value.requires_grad else ', frozen'}"
            raise ParameterError(
                f"{what}: expected parameters to train in {dtype} on {device}, as they were adopted, got {name} {found}; change it back, or adopt "
                "the module again"
            )


def canonical(name: str, tensor: Tensor, *, verbatim: bool) -> Tensor:
    """Return a parameter, or its gradient, in canonical shape.

    Args:
        name: Its canonical name.
        tensor: In the module's shape.
        verbatim: Whether the module's shapes are canonical; a layer of PyTorch's keeps its weight as [out, in].
    """
    return tensor.mT if not verbatim and name.endswith(".weight") else tensor


def from_canonical(
    vector: Array | Tensor, like: dict[str, Tensor], layout: Layout, *, verbatim: bool
) -> dict[str, Tensor]:
    """Return views of a [D] vector in canonical order, in the module's shapes; see `canonical`."""
    # A copy, since the vector may be read-only.
    tensor = vector if isinstance(vector, Tensor) else torch.from_numpy(np.array(vector))
    named = layout.named(tensor)
    return {
        name: canonical(name, named[name], verbatim=verbatim).to(value.device)
        for name, value in like.items()
    }


def flat(leaves: dict[str, Tensor]) -> Tensor:
    """Return all entries in one vector."""
    return _flatten_dense_tensors(tuple(leaves.values()))


def linear_layers(module: nn.Module) -> list[nn.Linear]:
    """Return the linear layers of a module, in order."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
