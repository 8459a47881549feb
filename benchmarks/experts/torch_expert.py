"""PPO's gradient as a good PyTorch user writes it: a lean loss, `torch.autograd.grad`."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

CLIP, VALUE_COEFFICIENT, ENTROPY_COEFFICIENT = 0.2, 0.5, 0.01

Result = dict[str, torch.Tensor]


def make(
    parameters: dict[str, np.ndarray], data: dict[str, np.ndarray], *, compiled: bool
) -> Callable[..., Result]:
    """Return a function that computes the gradient; the tensors are made here.

    It takes the numbers of a minibatch's steps, a tensor; without them all steps count.

    Args:
        parameters: By canonical name; weights are [in, out].
        data: observations, actions, old_log_prob, advantage and return_ of each step.
        compiled: Give the loss to `torch.compile`.
    """
    actor, critic = mlp(parameters, "network"), mlp(parameters, "critic")
    names, weights = list(parameters), [*actor.parameters(), *critic.parameters()]
    log_std = None
    if "head.log_std" in parameters:
        log_std = nn.Parameter(torch.from_numpy(parameters["head.log_std"].copy()))
        weights.append(log_std)
    tensors = {name: torch.from_numpy(value.copy()) for name, value in data.items()}

    def loss(
        observations: torch.Tensor,
        actions: torch.Tensor,
        old_log_prob: torch.Tensor,
        advantage: torch.Tensor,
        return_: torch.Tensor,
    ) -> torch.Tensor:
        log_prob, entropy = terms(actor(observations), actions, log_std)
        ratio = (log_prob - old_log_prob).exp()
        surrogate = torch.minimum(
            ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage
        ).mean()
        value_loss = 0.5 * functional.mse_loss(critic(observations).squeeze(1), return_)
        return VALUE_COEFFICIENT * value_loss - surrogate - ENTROPY_COEFFICIENT * entropy.mean()

    # The gradient alone: no `.grad` is written, no optimizer in the way.
    computed = torch.compile(loss) if compiled else loss

    def gradient(steps: torch.Tensor | None = None) -> Result:
        batch = tensors
        if steps is not None:
            batch = {name: x[steps] for name, x in tensors.items()}
        return dict(zip(names, torch.autograd.grad(computed(**batch), weights), strict=True))

    return gradient


def terms(
    outputs: torch.Tensor, actions: torch.Tensor, log_std: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log-probability and entropy: of logits, or of a Gaussian's means with a `log_std`."""
    if log_std is None:
        log_probs = functional.log_softmax(outputs, -1)
        log_prob = log_probs.gather(1, actions.unsqueeze(1)).squeeze(1)
        return log_prob, -(log_probs.exp() * log_probs).sum(1)
    standard = (actions - outputs) * (-log_std).exp()
    log_prob = -0.5 * (standard**2).sum(1) - (log_std + 0.5 * math.log(2 * math.pi)).sum()
    return log_prob, (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum()


def native(array: np.ndarray) -> torch.Tensor:
    """Return an array of the framework."""
    return torch.from_numpy(array)


def wait(result: Result) -> None:
    """Wait for a gradient; the host has it at once."""


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
