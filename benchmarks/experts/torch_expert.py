"""PPO's gradient as a good PyTorch user writes it: a lean loss, `torch.autograd.grad`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CLIP, VALUE_COEFFICIENT, ENTROPY_COEFFICIENT = 0.2, 0.5, 0.01

Result = dict[str, torch.Tensor]


def make(
    parameters: dict[str, np.ndarray], data: dict[str, np.ndarray], *, compiled: bool
) -> Callable[[], Result]:
    """Return a function that computes the gradient; the tensors are made here.

    Args:
        parameters: By canonical name; weights are [in, out].
        data: observations, actions, old_log_prob, advantage and return_ of each step.
        compiled: Give the loss to `torch.compile`.
    """
    actor, critic = mlp(parameters, "network"), mlp(parameters, "critic")
    names, weights = list(parameters), [*actor.parameters(), *critic.parameters()]
    tensors = {name: torch.from_numpy(value.copy()) for name, value in data.items()}

    def loss(
        observations: torch.Tensor,
        actions: torch.Tensor,
        old_log_prob: torch.Tensor,
        advantage: torch.Tensor,
        return_: torch.Tensor,
    ) -> torch.Tensor:
        log_probs = functional.log_softmax(actor(observations), -1)
        log_prob = log_probs.gather(1, actions.unsqueeze(1)).squeeze(1)
        ratio = (log_prob - old_log_prob).exp()
        surrogate = torch.minimum(
            ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage
        ).mean()
        entropy = -(log_probs.exp() * log_probs).sum(1).mean()
        value_loss = 0.5 * functional.mse_loss(critic(observations).squeeze(1), return_)
        return VALUE_COEFFICIENT * value_loss - surrogate - ENTROPY_COEFFICIENT * entropy

    # The gradient alone: no `.grad` is written, no optimizer in the way.
    computed = torch.compile(loss) if compiled else loss

    def gradient() -> Result:
        return dict(zip(names, torch.autograd.grad(computed(**tensors), weights), strict=True))

    return gradient


def to_numpy(result: Result) -> dict[str, np.ndarray]:
    """Return the gradient by canonical name, weights [in, out]."""
    return {
        name: value.numpy().T if name.endswith("weight") else value.numpy()
        for name, value in result.items()
    }


def mlp(parameters: dict[str, np.ndarray], part: str) -> nn.Sequential:
    """Return a tanh network that holds one part's parameters."""
    layers: list[nn.Module] = []
    for name, weight in parameters.items():
        if name.startswith(part) and name.endswith("weight"):
            layer = nn.Linear(*weight.shape)
            # PyTorch keeps [out, in].
            layer.weight = nn.Parameter(torch.from_numpy(weight.T.copy()))
            layer.bias = nn.Parameter(
                torch.from_numpy(parameters[name.replace("weight", "bias")].copy())
            )
            layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])
