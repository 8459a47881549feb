"""PPO's gradient as few PyTorch users write it: `torch.compile(torch.func.grad(loss))`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from experts.torch_expert import (
    CLIP,
    ENTROPY_COEFFICIENT,
    VALUE_COEFFICIENT,
    Result,
    native,
    terms,
    to_numpy,
    wait,
)
from torch.nn import functional

__all__ = ["make", "native", "to_numpy", "wait"]


def make(
    parameters: dict[str, np.ndarray], data: dict[str, np.ndarray], *, compiled: bool
) -> Callable[..., Result]:
    """See `torch_expert.make`; loss and derivative are one graph."""
    # `torch.func` wants a function of its weights, so there are no modules here.
    assert compiled
    weights = {
        name: torch.from_numpy(value.T.copy() if name.endswith("weight") else value.copy())
        for name, value in parameters.items()
    }
    inputs = [
        torch.from_numpy(data[name].copy())
        for name in ("observations", "actions", "old_log_prob", "advantage", "return_")
    ]
    function = torch.compile(torch.func.grad(loss))

    def gradient(steps: torch.Tensor | None = None) -> Result:
        batch = inputs if steps is None else [x[steps] for x in inputs]
        return function(weights, *batch)

    return gradient


def loss(
    weights: Result,
    observations: torch.Tensor,
    actions: torch.Tensor,
    old_log_prob: torch.Tensor,
    advantage: torch.Tensor,
    return_: torch.Tensor,
) -> torch.Tensor:
    """Return PPO's loss."""
    outputs = mlp(weights, "network", observations)
    log_prob, entropy = terms(outputs, actions, weights.get("head.log_std"))
    ratio = (log_prob - old_log_prob).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage).mean()
    value_loss = 0.5 * functional.mse_loss(mlp(weights, "critic", observations).squeeze(1), return_)
    return VALUE_COEFFICIENT * value_loss - surrogate - ENTROPY_COEFFICIENT * entropy.mean()


def mlp(weights: Result, part: str, x: torch.Tensor) -> torch.Tensor:
    """Return a tanh network's output."""
    layers = sum(name.startswith(part) for name in weights) // 2
    for number in range(layers):
        x = functional.linear(
            x, weights[f"{part}.{number}.weight"], weights[f"{part}.{number}.bias"]
        )
        x = torch.tanh(x) if number < layers - 1 else x
    return x
