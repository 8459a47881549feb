"""The backend's front door."""

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
from pgcore_torch.networks import (
    BATCH_NORM,
    AdoptedModule,
    make_module,
    own_parameters,
    stochastic_layers,
)
from pgcore_torch.parameters import adopted_parameters, native_parameters
from pgcore_torch.policy import TorchPolicy

__all__ = ["TorchBackend"]


class TorchBackend(Backend):
    """See `Backend`; devices are PyTorch's, "cpu" by default, and `compiled` is `torch.compile`."""

    name: ClassVar[str] = "torch"
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
        """See `Backend.adopt`; modules are `torch.nn.Module`, and tensors that network and critic share are trained once."""
        kind = critic_kind("torch", critic)
        own_critic = critic if kind == "separate" else None
        for what, given in (("module", module), ("critic", own_critic)):
            if not isinstance(given, nn.Module) and (what == "module" or given is not None):
                raise SpecError(
                    f"torch.adopt {what}: expected a torch.nn.Module, got {type(given).__name__}; pass a module"
                )
        description = f"torch {type(module).__name__}"
        draft = PolicySpec(Adopted(description, ()), head, kind, critic_values)
        first = next(
            (value for value in module.parameters() if value.requires_grad), torch.empty(0)
        )
        adopted = AdoptedModule(
            module,
            own_critic,
            own_parameters(draft, first.dtype, first.device),
            shared=kind == "shared",
        )
        native = adopted_parameters(adopted)
        for given in (module, own_critic):
            if given is not None:
                settle(given, evaluation_mode=evaluation_mode)
        shapes = tuple((name, tuple(value.shape)) for name, value in native.items())
        spec = PolicySpec(Adopted(description, shapes), head, kind, critic_values)
        numbers = np.dtype(str(first.dtype).removeprefix("torch."))
        policy = TorchPolicy(self.name, spec, numbers, adopted, native, compiled=compiled)
        policy.probe = Probe(str(spec.network), adopted.preserved, adopted.mode, EVALUATION)
        return policy


def usable_device(device: str | None) -> torch.device:
    """Return PyTorch's device, or raise SpecError where it cannot be used here."""
    try:
        place = torch.device(device or "cpu")
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise SpecError(
            f"torch.policy device: expected a device that PyTorch can use here, got {device!r} ({reason}); choose 'cpu'"
        ) from error
    if place.type == "meta":
        raise SpecError(
            "torch.policy device: expected a device that holds numbers, got 'meta'; choose 'cpu'"
        )
    return place


def settle(module: nn.Module, *, evaluation_mode: bool) -> None:
    """Put a module in evaluation mode where that is wanted, or refuse layers that are in training mode and differ there."""
    for layer in stochastic_layers(module):
        if isinstance(layer, BATCH_NORM) and not layer.track_running_stats:
            raise SpecError(
                f"torch.adopt {type(module).__name__}: expected outputs that depend on one observation alone, got {type(layer).__name__} without "
                "running statistics, which mixes the batch in evaluation mode too; give it track_running_stats=True"
            )
        if layer.training and not evaluation_mode:
            raise SpecError(
                f"torch.adopt {type(module).__name__}: expected outputs that depend on one observation alone, got {type(layer).__name__} in training "
                "mode, whose gradient belongs to no policy; pass evaluation_mode=True, or call .eval() on the module"
            )
    if evaluation_mode:
        module.eval()
        for layer in module.modules():
            if isinstance(layer, nn.RNNBase) and not layer.dropout:
                layer.train()  # the same in both modes, and cuDNN differentiates it in this one only
