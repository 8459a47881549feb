"""The array namespace `xp` over PyTorch tensors, with `ArrayNamespace`'s subgradients."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from pgcore.xp.namespace import ArrayNamespace

__all__ = ["TorchNamespace", "xp"]


class TorchNamespace:
    """See `pgcore.xp.namespace.ArrayNamespace`.

    Each function with a non-differentiable point is a choice by `where`, since PyTorch's own
    subgradients change between versions.
    """

    # Compiled code looks at all it reads at each call: sooner at a slot than at a class.
    __slots__ = (
        "concatenate",
        "exp",
        "full_like",
        "log",
        "log_softmax",
        "matmul",
        "sigmoid",
        "sqrt",
        "stop_gradient",
        "sum",
        "tanh",
        "where",
    )

    def __init__(self) -> None:
        """Hold the functions that PyTorch has with the same arguments and derivatives."""
        self.exp = torch.exp
        self.log = torch.log
        self.sqrt = torch.sqrt
        self.tanh = torch.tanh
        self.sigmoid = torch.sigmoid
        self.matmul = torch.matmul
        self.where = torch.where
        self.sum = torch.sum
        self.concatenate = torch.cat
        self.full_like = torch.full_like
        self.log_softmax = torch.log_softmax
        self.stop_gradient = torch.detach

    def relu(self, x: Tensor) -> Tensor:
        """See `ArrayNamespace.relu`."""
        return torch.where(x <= 0, 0.0, x)

    def abs(self, x: Tensor) -> Tensor:
        """See `ArrayNamespace.abs`."""
        return torch.where(x == 0, 0.0, torch.where(x < 0, -x, x))

    def maximum(self, x: Tensor, y: Tensor) -> Tensor:
        """See `ArrayNamespace.maximum`; PyTorch's own splits the gradient on a tie."""
        return torch.where((x >= y) | (x != x), x, y)  # noqa: PLR0124 - NaN alone differs from itself

    def minimum(self, x: Tensor, y: Tensor) -> Tensor:
        """See `ArrayNamespace.minimum`; PyTorch's own splits the gradient on a tie."""
        return torch.where((x <= y) | (x != x), x, y)  # noqa: PLR0124 - see `maximum`

    def clip(self, x: Tensor, low: Any, high: Any) -> Tensor:
        """See `ArrayNamespace.clip`.

        The derivative of `torch.clamp` at a bound is 1, 0 or 1/2, by version and type of bound.
        """
        return torch.where(x < low, low, torch.where(x > high, high, x))

    def convolve(self, x: Tensor, kernel: Tensor, stride: int) -> Tensor:
        """See `ArrayNamespace.convolve`; PyTorch has the channels first."""
        # The derivative of a kernel whose axes are permuted fails in float64 on CPUs.
        images, kernels = x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1).contiguous()
        return functional.conv2d(images, kernels, stride=stride).permute(0, 2, 3, 1)

    def flatten(self, x: Tensor) -> Tensor:
        """See `ArrayNamespace.flatten`."""
        return x.flatten(1)

    def broadcast_to(self, x: Tensor, like: Tensor) -> Tensor:
        """See `ArrayNamespace.broadcast_to`."""
        return x.expand(like.shape)

    def take_last(self, x: Tensor, index: Tensor) -> Tensor:
        """See `ArrayNamespace.take_last`."""
        return x.gather(1, index.unsqueeze(1)).squeeze(1)

    def take_rows(self, x: Tensor, index: Tensor) -> Tensor:
        """See `ArrayNamespace.take_rows`."""
        return functional.embedding(index, x)

    def first_largest(self, x: Tensor) -> Tensor:
        """See `ArrayNamespace.first_largest`."""
        return torch.arange(x.shape[1], device=x.device) == x.argmax(1, keepdim=True)

    def episode_sum(self, x: Tensor, episode: Tensor) -> Tensor:
        """See `ArrayNamespace.episode_sum`; there are no more episodes than steps."""
        return torch.zeros_like(x).index_add(0, episode, x)[episode]

    def episode_mean(self, x: Tensor, episode: Tensor) -> Tensor:
        """See `ArrayNamespace.episode_mean`."""
        return self.episode_sum(x, episode) / self.episode_sum(torch.ones_like(x), episode)


xp = cast("ArrayNamespace", TorchNamespace())
