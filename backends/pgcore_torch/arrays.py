"""PyTorch tensors as losses take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.func import debug_unwrap
from torch.linalg import vector_norm

from pgcore.data.native import Arrays
from pgcore.validation.arrays import Array
from pgcore_torch.xp import xp

__all__ = ["TorchArrays"]


class TorchArrays(Arrays):
    """See `Arrays`; traced code is that of `torch.compile` and `torch.func`."""

    # Compiled code looks at all it reads at each call: sooner at a slot than at a class or a module.
    __slots__ = ("differentiates", "is_compiling", "vector_norm", "wide", "xp")

    name: ClassVar[str] = "torch"

    def __init__(self) -> None:
        """Make the only instance that is needed."""
        self.xp, self.differentiates = xp, True
        self.wide, self.vector_norm, self.is_compiling = torch.float64, vector_norm, is_compiling

    def owns(self, x: Any) -> bool:
        """See `Arrays.owns`."""
        return isinstance(x, Tensor)

    def host(self, x: Tensor) -> Array:
        """See `Arrays.host`."""
        x = x.detach()
        if x.dtype in (torch.bfloat16, torch.float16):
            x = x.float()
        return x.cpu().numpy()

    def native(self, x: Array, like: Tensor | None, dtype: str | None = None) -> Tensor:
        """See `Arrays.native`."""
        # A copy: NumPy's memory may be read-only, and belongs to the batch.
        kind = None if dtype is None else getattr(torch, dtype)
        place = None if like is None else like.device
        with self.computing(""):
            return torch.from_numpy(np.array(x)).to(device=place, dtype=kind)

    def dtype(self, x: Tensor) -> str:
        """See `Arrays.dtype`."""
        return f"{x.dtype}"[6:]  # after "torch."

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        """See `Arrays.cast`."""
        return x.to(getattr(torch, dtype))

    def device(self, x: Tensor) -> str:
        """See `Arrays.device`."""
        return f"{x.device}"

    def is_traced(self, x: Tensor) -> bool:
        """See `Arrays.is_traced`."""
        return self.is_compiling() or debug_unwrap(x) is not x

    def computing(self, dtype: str) -> AbstractContextManager[Any]:
        """See `Arrays.computing`; a later loss keeps tensors for its derivative, but none of inference."""
        if self.is_compiling() or not torch.is_inference_mode_enabled():
            return nullcontext()
        return torch.inference_mode(mode=False)

    def resident(self, x: Tensor) -> bool:
        """See `Arrays.resident`."""
        return x.device.type != "cpu"

    def owned(self, x: Tensor) -> Tensor:
        """See `Arrays.owned`."""
        return x.clone()

    def order(self, x: Tensor) -> Tensor:
        """See `Arrays.order`."""
        return torch.argsort(x, stable=True)

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See `Arrays.reshape`."""
        return x.reshape(shape)

    def rows(self, x: Tensor, index: Any) -> Tensor:
        """See `Arrays.rows`."""
        return x[index]

    def centre(self, x: Tensor, real: Tensor | None) -> Tensor:
        """See `Arrays.centre`."""
        if real is None:
            # The mean's rounding would otherwise come out as a spread of equal entries.
            centred = x - (x if x.dim() == 1 else x.flatten())[0]
            return centred - centred.mean()
        first = x.flatten().index_select(0, real.to(torch.uint8).argmax().view(1))
        centred = torch.where(real, x - first, 0.0)
        return torch.where(real, centred - centred.sum() / real.sum(), 0.0)

    def norm(self, x: Tensor) -> Tensor:
        """See `Arrays.norm`: squares in float64, where the device has it."""
        # A number in float64 beside an array leaves the array's dtype as it is.
        wide = torch.float32 if x.device.type == "mps" else self.wide
        return self.vector_norm(x, dtype=wide)

    def dot(self, x: Tensor, y: Tensor) -> Tensor:
        """See `Arrays.dot`."""
        return x.dot(y) if x.dim() == 1 else x.reshape(-1).dot(y.reshape(-1))

    def weighted_sum(self, terms: Tensor, weights: Tensor, *, averaged: bool) -> Tensor:
        """See `Arrays.weighted_sum`: a mean is one tensor fewer to compiled code, and slower elsewhere."""
        # Terms of another shape or dtype are an error of `dot`.
        alike = terms.shape == weights.shape and terms.dtype == weights.dtype
        if averaged and alike and self.is_compiling():
            return terms.mean()
        return self.dot(weights, terms)

    def is_finite(self, x: Tensor) -> bool:
        """See `Arrays.is_finite`."""
        if self.is_compiling() or x.device.type != "cpu":
            return True
        try:
            return math.isfinite(x.item())
        except RuntimeError:
            return True  # a tensor of `torch.func`, which has no number

    def differentiated(
        self,
        function: Callable[..., Any],
        constants: Any,
        inputs: Mapping[str, Tensor],
        *,
        compiled: bool,
    ) -> tuple[Any, dict[str, Tensor]]:
        """See `Arrays.differentiated`."""
        leaves = {name: value.detach().requires_grad_() for name, value in inputs.items()}
        run = torch.compile(function, fullgraph=True) if compiled else function
        result = run(constants, **leaves)
        found = torch.autograd.grad(result.loss, [*leaves.values()], allow_unused=True)
        # An input that the loss does not depend on has derivative 0.
        return result, {
            name: torch.zeros_like(leaf) if slope is None else slope
            for (name, leaf), slope in zip(leaves.items(), found, strict=True)
        }
