"""One PPO gradient: pgcore on NumPy beside the same loss by hand in PyTorch.

Both run in one process, on one thread. Policy and critic are 4-64-64-2 and 4-64-64-1 tanh networks
in float32. Gradients are checked equal first. They take turns of 25 calls; the figure is the ratio
of the medians.

Run with `make bench`, or `python benchmarks/ppo_gradient.py` with PyTorch installed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from threadpoolctl import threadpool_limits
from torch import nn
from torch.distributions import Categorical

import pgcore as pg

CLIP, VALUE_COEFFICIENT, ENTROPY_COEFFICIENT = 0.2, 0.5, 0.01
# Calls by batch size, some seconds for each.
ROUNDS = {64: 3000, 256: 2000, 2048: 400}


class Agent(nn.Module):
    """An actor and a critic as people write them."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.actor = nn.Sequential(
            nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2)
        )
        self.critic = nn.Sequential(
            nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        )

    def evaluate(
        self, observations: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return log-probabilities, entropies and values."""
        distribution = Categorical(logits=self.actor(observations))
        return (
            distribution.log_prob(actions),
            distribution.entropy(),
            self.critic(observations).squeeze(-1),
        )


def usual_loss(agent: Agent, minibatch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return PPO's loss as usually written, advantages normalised in the minibatch."""
    log_prob, entropy, value = agent.evaluate(minibatch["observations"], minibatch["actions"])
    ratio = (log_prob - minibatch["old_log_prob"]).exp()
    advantage = minibatch["advantage"]
    advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    policy_loss = torch.max(
        -advantage * ratio, -advantage * torch.clamp(ratio, 1 - CLIP, 1 + CLIP)
    ).mean()
    value_loss = 0.5 * ((value - minibatch["return_"]) ** 2).mean()
    return policy_loss + VALUE_COEFFICIENT * value_loss - ENTROPY_COEFFICIENT * entropy.mean()


def make_case(size: int) -> tuple[Callable[[], pg.Gradient], Callable[[], Agent]]:
    """Return both gradient computations for a minibatch, after checking that they agree."""
    rng = np.random.default_rng(size)
    spec = pg.PolicySpec(pg.MLP(4, (64, 64), "tanh"), pg.Categorical(2), critic="separate")
    policy = pg.policy(spec, backend="numpy", seed=0, dtype="float32")
    policy.load(
        {
            name: value + 0.1 * rng.standard_normal(value.shape).astype(np.float32)
            for name, value in policy.parameters().items()
        }
    )
    steps = 2 * size
    observations = rng.standard_normal((steps, 4)).astype(np.float32)
    actions, log_probs = policy.act(observations, pg.generator(0))
    batch = pg.Batch(
        observations=observations,
        actions=actions,
        rewards=rng.standard_normal(steps),
        episode_lengths=[32] * (steps // 32),
        terminated=[True] * (steps // 32),
        log_probs=log_probs + 0.2 * rng.standard_normal(steps),
    )
    estimator = pg.estimator(
        "ppo",
        clip=CLIP,
        value_coefficient=VALUE_COEFFICIENT,
        entropy_coefficient=ENTROPY_COEFFICIENT,
    )
    signals = pg.signals(policy, estimator, batch)
    index = rng.permutation(steps)[:size]
    minibatch, sliced = batch.steps(index), signals.steps(index)

    # Both start with the same parameters, or there is nothing to compare.
    agent = Agent()
    with torch.no_grad():
        for name, tensor in agent.named_parameters():
            part, layer, kind = name.split(".")
            value = policy.parameters()[
                f"{'network' if part == 'actor' else 'critic'}.{int(layer) // 2}.{kind}"
            ]
            tensor.copy_(torch.from_numpy(value.T if kind == "weight" else value))
    tensors = {
        name: torch.from_numpy(sliced[name].copy())
        for name in ("advantage", "return_", "old_log_prob")
    }
    tensors |= {
        "observations": torch.from_numpy(minibatch.observations.copy()),
        "actions": torch.from_numpy(minibatch.actions.copy()),
    }

    def by_pgcore() -> pg.Gradient:
        return pg.gradient(policy, estimator, minibatch, signals=sliced)

    def by_torch() -> Agent:
        agent.zero_grad()
        usual_loss(agent, tensors).backward()
        return agent

    check_equal(by_pgcore(), by_torch())
    return by_pgcore, by_torch


def check_equal(gradient: pg.Gradient, agent: Agent) -> None:
    """Raise unless both gradients are the same to float32's precision."""
    ours = gradient.numpy()
    largest = max(np.abs(value).max() for value in ours.values())
    for name, tensor in agent.named_parameters():
        part, layer, kind = name.split(".")
        assert tensor.grad is not None
        theirs = tensor.grad.numpy()
        mine = ours[f"{'network' if part == 'actor' else 'critic'}.{int(layer) // 2}.{kind}"]
        np.testing.assert_allclose(
            mine,
            theirs.T if kind == "weight" else theirs,
            rtol=1e-4,
            atol=2e-6 * largest,
            err_msg=name,
        )


def side_by_side(
    left: Callable[[], object], right: Callable[[], object], rounds: int
) -> tuple[float, float]:
    """Return both medians over turns of 25 calls each, in microseconds.

    The calls of a turn follow each other as in PPO's inner loop. Its first calls, which find the
    other's data in the caches, count.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds // 25 + 1):
        for function, record in zip((left, right), times, strict=True):
            for _ in range(25):
                start = time.perf_counter()
                function()
                if turn:  # the first turn warms up
                    record.append(time.perf_counter() - start)
    return statistics.median(times[0]) * 1e6, statistics.median(times[1]) * 1e6


def main() -> None:
    """Time every batch size and print the table."""
    torch.set_num_threads(1)
    table = Table(
        "batch",
        "pgcore on NumPy, us",
        "PyTorch as usually written, us",
        "times as fast",
        title="One PPO gradient, float32, one thread",
    )
    with threadpool_limits(1):
        for size, rounds in track(ROUNDS.items(), description="timing"):
            ours, theirs = side_by_side(*make_case(size), rounds)
            table.add_row(str(size), f"{ours:.0f}", f"{theirs:.0f}", f"{theirs / ours:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
