"""One Fisher-vector product: pgcore on NumPy beside its gradient and PyTorch's double backward.

The policy is a 4-64-64-2 tanh network in float32, on one thread. The gradient is that of
`reinforce`, without a critic; the product is with the Fisher information of the policy. Its
forward pass, which the products of one solve share, is not in its time; the gradient's and PyTorch's
are in theirs. PyTorch differentiates the mean KL from the detached distribution twice, as is usual;
its network and observations are tensors already.

Gradients and products are first checked equal, in float32 and in float64. Then the three take
turns of 20 calls. A turn counts as its median, and a ratio is the median of the turns' ratios.

    python benchmarks/fisher.py [--batch SIZE] [--turns N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import nn

import pgcore as pg

SIZES = (64, 1024, 4096)
CALLS_PER_TURN = 20
TOLERANCES = {"float32": 4e-6, "float64": 1e-12}  # parts of the largest entry
ESTIMATOR = pg.estimator("reinforce")

Call = Callable[[], Any]


def make_network(parameters: dict[str, np.ndarray]) -> nn.Sequential:
    """Return the policy's network with these parameters."""
    network = nn.Sequential(
        nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
    )
    with torch.no_grad():
        for number in range(3):
            layer: Any = network[2 * number].to(
                getattr(torch, str(parameters["network.0.weight"].dtype))
            )
            layer.weight.copy_(torch.from_numpy(parameters[f"network.{number}.weight"].T.copy()))
            layer.bias.copy_(torch.from_numpy(parameters[f"network.{number}.bias"]))
    return network


def double_backward(
    network: nn.Sequential, observations: torch.Tensor, vector: torch.Tensor
) -> Call:
    """Return the usual product: the gradient of (gradient of the mean KL) times the vector."""
    parameters = list(network.parameters())

    def product() -> torch.Tensor:
        log_pi = torch.log_softmax(network(observations), 1)
        old = log_pi.detach()
        kl = (old.exp() * (old - log_pi)).sum(1).mean()
        first = torch.autograd.grad(kl, parameters, create_graph=True)
        along = torch.cat([part.reshape(-1) for part in first]) @ vector
        return torch.cat([part.reshape(-1) for part in torch.autograd.grad(along, parameters)])

    return product


def canonical(flat: np.ndarray, network: nn.Sequential) -> np.ndarray:
    """Return a vector in the order of PyTorch's parameters in pgcore's."""
    parts: list[np.ndarray] = []
    start = 0
    for value in network.parameters():
        part = flat[start : start + value.numel()].reshape(tuple(value.shape))
        parts.append(part.T.reshape(-1))
        start += value.numel()
    return np.concatenate(parts)


def make_case(size: int, dtype: str) -> tuple[Call, Call, Call]:
    """Return gradient, product and PyTorch's product, after checking them against each other."""
    rng = np.random.default_rng(size)
    spec = pg.PolicySpec(pg.MLP(4, (64, 64), "tanh"), pg.Categorical(2))
    policy = pg.policy(spec, backend="numpy", dtype=dtype)
    policy.load(
        {
            name: value + 0.1 * rng.standard_normal(value.shape)
            for name, value in policy.parameters().items()
        }
    )
    observations = rng.standard_normal((size, 4)).astype(dtype)
    actions, log_probs = policy.act(observations, pg.generator(0))
    batch = pg.Batch(
        observations=observations,
        actions=actions,
        rewards=rng.standard_normal(size),
        episode_lengths=[32] * (size // 32),
        terminated=[True] * (size // 32),
        log_probs=log_probs,
    )
    # Signals and PyTorch's tensors are made off the clock.
    signals = pg.signals(policy, ESTIMATOR, batch)
    parameters = policy.parameters()
    network = make_network(parameters)
    native = rng.standard_normal(sum(value.size for value in parameters.values())).astype(dtype)
    vector = canonical(native, network)
    tensor = torch.from_numpy(observations)
    theirs = double_backward(network, tensor, torch.from_numpy(native))

    def gradient() -> pg.Gradient:
        return pg.gradient(policy, ESTIMATOR, batch, signals=signals)

    def product() -> np.ndarray:
        return policy.fisher_vector_product(batch, vector)

    # The same sums in PyTorch: the mean over episodes of -log pi times the advantage.
    log_pi = torch.log_softmax(network(tensor), 1)[torch.arange(size), torch.from_numpy(actions)]
    loss = -(log_pi * torch.from_numpy(signals["advantage"].copy())).sum() / batch.num_episodes
    expected = torch.autograd.grad(loss, list(network.parameters()))
    flat = np.concatenate([part.numpy().reshape(-1) for part in expected])
    ours = np.concatenate([value.reshape(-1) for value in gradient().numpy().values()])
    check_equal("gradient", ours, canonical(flat, network), dtype)
    check_equal("product", product(), canonical(theirs().numpy(), network), dtype)
    return gradient, product, theirs


def check_equal(name: str, actual: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    """Raise unless two vectors are the same to the dtype's precision."""
    off = float(np.abs(actual - expected).max() / np.abs(expected).max())
    assert off < TOLERANCES[dtype], f"{name}: off by {off:.2g} of the largest in {dtype}"


def turn(call: Call) -> float:
    """Return the median seconds of some calls."""
    times: list[float] = []
    for _ in range(CALLS_PER_TURN):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(size: int, turns: int) -> dict[str, Any]:
    """Return medians in microseconds and the ratios of one batch size."""
    # For its checks alone.
    make_case(size, "float64")
    calls = make_case(size, "float32")
    for call in calls:
        turn(call)
    times: list[list[float]] = [[], [], []]
    for number in range(turns):
        # The first finds the others' data in the caches, so they take turns at that too.
        for index in np.roll(np.arange(3), number):
            times[index].append(turn(calls[index]))
    gradient, product, theirs = times

    def ratio(above: list[float], below: list[float]) -> float:
        return statistics.median(np.divide(above, below).tolist())

    return {
        "batch": size,
        **{
            f"{name}_us": statistics.median(record) * 1e6
            for name, record in zip(("gradient", "product", "torch"), times, strict=True)
        },
        "of_one_gradient": ratio(product, gradient),
        "times_as_fast_as_torch": ratio(theirs, product),
    }


def main() -> None:
    """Check and time every batch size and print the table."""
    parser = argparse.ArgumentParser(
        description="A Fisher-vector product beside a gradient and a double backward."
    )
    parser.add_argument(
        "--batch", type=int, action="append", help="only this size; can be repeated"
    )
    parser.add_argument(
        "--turns", type=int, default=60, help="of each, 20 calls each (default: 60)"
    )
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = Table(title="One Fisher-vector product, float32, one thread")
    for name in (
        "batch",
        "gradient us",
        "product us",
        "PyTorch us",
        "of gradient",
        "times as fast as PyTorch",
    ):
        table.add_column(name, justify="right")
    with threadpool_limits(1):
        rows = [
            measure(size, arguments.turns)
            for size in track(arguments.batch or SIZES, description="timing")
        ]
    for row in rows:
        *whole, share, lead = row.values()
        table.add_row(*(f"{figure:.0f}" for figure in whole), f"{share:.2f}", f"{lead:.2f}")
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
