"""The PyTorch backend's entry point."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from pgcore.autodiff.adoption import EVALUATION, Probe
from pgcore.autodiff.policy import critic_kind
from pgcore.data.spec import Adopted, PolicySpec
from pgcore.errors import SpecError
from pgcore.heads import Head
from pgcore.interfaces.backend import Backend, float_dtype
from pgcore.wording import shown
from pgcore_torch.arrays import TorchArrays
from pgcore_torch.networks import (
    BATCH_NORM,
    AdoptedModule,
    head_parameters,
    make_module,
    stochastic_layers,
)
from pgcore_torch.parameters import adopted_parameters, native_parameters
from pgcore_torch.policy import TorchPolicy

__all__ = ["TorchBackend"]


class TorchBackend(Backend):
    """See `Backend`; devices are PyTorch's, "cpu" by default, and `compiled` is `torch.compile`."""

    name: ClassVar[str] = "torch"
    arrays = TorchArrays()
    modes: ClassVar[tuple[str, ...]] = ("eager", "compiled")

    @torch.inference_mode(mode=False)
    def policy(
        self,
        spec: PolicySpec,
        *,
        seed: int = 0,
        dtype: str = "float32",
        device: str | None = None,
        compiled: bool = False,
    ) -> TorchPolicy:
        """See `Backend.policy`."""
        place = usable_device(device)
        numbers = float_dtype("torch.policy dtype", dtype)
        parameters = spec.initial_parameters(seed)
        module = make_module(spec, getattr(torch, dtype), place)
        policy = TorchPolicy(
            self.name, spec, numbers, module, native_parameters(spec, module), compiled=compiled
        )
        policy.load(parameters)
        return policy

    def adopt(
        self,
        module: Any,
        head: Head,
        critic: Any = None,
        *,
        critic_values: str = "state",
        compiled: bool = False,
        evaluation_mode: bool = False,
    ) -> TorchPolicy:
        """See `Backend.adopt`; modules are `torch.nn.Module`.

        Tensors that network and critic share are trained once.
        """
        kind = critic_kind("torch", critic)
        critic_module = critic if kind == "separate" else None
        check_module("module", module)
        if critic_module is not None:
            check_module("critic", critic_module)
        description = f"torch {type(module).__name__}"
        # The shapes are not known yet; this draft refuses a wrong head or critic.
        draft = PolicySpec(Adopted(description, ()), head, kind, critic_values)
        first = next(
            (value for value in module.parameters() if value.requires_grad), torch.empty(0)
        )
        head_tensors = head_parameters(draft, first.dtype, first.device)
        adopted = AdoptedModule(module, critic_module, head_tensors, shared=kind == "shared")
        native = adopted_parameters(adopted)
        # Only a module that is adopted for sure changes its mode.
        set_mode(module, evaluation_mode=evaluation_mode)
        if critic_module is not None:
            set_mode(critic_module, evaluation_mode=evaluation_mode)
        shapes = tuple((name, tuple(value.shape)) for name, value in native.items())
        spec = PolicySpec(Adopted(description, shapes), head, kind, critic_values)
        numbers = np.dtype(str(first.dtype).removeprefix("torch."))
        policy = TorchPolicy(self.name, spec, numbers, adopted, native, compiled=compiled)
        policy.probe = Probe(str(spec.network), adopted.preserved, adopted.mode, EVALUATION)
        return policy


def check_module(role: str, module: object) -> None:
    """Raise SpecError unless the user's module or critic is a `torch.nn.Module`."""
    if not isinstance(module, nn.Module):
        raise SpecError(
            f"torch.adopt {role}: expected a torch.nn.Module, got {type(module).__name__}; "
            "pass a module"
        )


def usable_device(device: str | None) -> torch.device:
    """Return PyTorch's device, or raise SpecError where it cannot be used here."""
    # A device may have a name and yet be absent: allocating on it tells.
    try:
        place = torch.device(device or "cpu")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise SpecError(
            "torch.policy device: expected a device that PyTorch can use here, "
            f"got {shown(device)} ({reason}); choose 'cpu'"
        ) from error
    if place.type == "meta":
        raise SpecError(
            "torch.policy device: expected a device that holds numbers, got 'meta'; choose 'cpu'"
        )
    return place


def set_mode(module: nn.Module, *, evaluation_mode: bool) -> None:
    """Put a module in evaluation mode, or check the mode that it is in.

    Args:
        module: The user's.
        evaluation_mode: Whether to change its mode.

    Raises:
        SpecError: a layer's outputs would depend on more than one step's observation.
    """
    rule = "expected outputs that depend on one observation alone"
    for layer in stochastic_layers(module):
        where = f"torch.adopt {type(module).__name__}: {rule}, got {type(layer).__name__}"
        if isinstance(layer, BATCH_NORM) and not layer.track_running_stats:
            raise SpecError(
                f"{where} without running statistics, which mixes the batch in evaluation mode "
                "too; give it track_running_stats=True"
            )
        if layer.training and not evaluation_mode:
            raise SpecError(
                f"{where} in training mode, whose gradient belongs to no policy; "
                "pass evaluation_mode=True, or call .eval() on the module"
            )
    if evaluation_mode:
        module.eval()
        # cuDNN differentiates a recurrent layer in training mode only; without dropout both modes
        # give the same outputs.
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase) and not layer.dropout:
                layer.train()
