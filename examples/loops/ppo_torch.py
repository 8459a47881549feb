"""PPO on CartPole-v1 in PyTorch, in one file: `python examples/loops/ppo_torch.py --loss pgcore`.

`usual` is the loss as it is written by hand, `by_pgcore` the same one of `pgcore.loss`.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

import pgcore as pg

GAMMA, LAMBDA, CLIP, VALUE, ENTROPY = 0.99, 0.95, 0.2, 0.5, 0.01
PPO = pg.estimator(
    "ppo",
    gamma=GAMMA,
    gae_lambda=LAMBDA,
    clip=CLIP,
    value_coefficient=VALUE,
    entropy_coefficient=ENTROPY,
)


class Agent(nn.Module):
    """A policy and a critic of [..., 4] observations."""

    def __init__(self, width: int = 64) -> None:
        """Build the layers."""
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 2))
        self.critic = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, observations: Tensor) -> tuple[Categorical, Tensor]:
        """Return the distribution of actions, and [...] values."""
        return Categorical(logits=self.actor(observations)), self.critic(observations)[..., 0]


class Rollout(NamedTuple):
    """[T, N, ...] arrays of T steps in N environments, and [N] of what is before and after them."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    previous_done: Tensor
    last_values: Tensor


Loss = Callable[[Tensor], Tensor]


def usual(agent: Agent, rollout: Rollout) -> Loss:
    """Return the loss of [n] positions in the flattened rollout, by hand.

    The row after an episode's end holds its final observation and an action that was not taken: its
    value bootstraps a truncated episode, and the row itself is no step and counts nowhere.
    """
    done = rollout.terminated | rollout.truncated
    real = ~torch.cat([rollout.previous_done[None], done[:-1]]).flatten()
    next_values = torch.cat([rollout.values[1:], rollout.last_values[None]])
    next_values = torch.where(rollout.terminated, 0.0, next_values)
    deltas = rollout.rewards + GAMMA * next_values - rollout.values
    advantages, following = torch.zeros_like(deltas), torch.zeros_like(rollout.last_values)
    for t in reversed(range(len(deltas))):
        following = deltas[t] + GAMMA * LAMBDA * torch.where(done[t], 0.0, following)
        advantages[t] = following
    returns = advantages + rollout.values

    def loss(index: Tensor) -> Tensor:
        index = index[real[index]]
        distribution, values = agent(rollout.observations.flatten(0, 1)[index])
        log_probs = distribution.log_prob(rollout.actions.flatten()[index])
        ratio = torch.exp(log_probs - rollout.log_probs.flatten()[index])
        advantage = advantages.flatten()[index]
        advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
        gain = torch.min(advantage * ratio, advantage * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
        critic = 0.5 * ((values - returns.flatten()[index]) ** 2).mean()
        return -gain + VALUE * critic - ENTROPY * distribution.entropy().mean()

    return loss


def by_pgcore(agent: Agent, rollout: Rollout) -> Loss:
    """Return the same loss of `pgcore.loss`; `from_rollout` leaves those rows out."""
    recorded = rollout._asdict()
    observations, actions = recorded.pop("observations"), recorded.pop("actions")
    signals = pg.signals(PPO, pg.Episodes.from_rollout(**recorded))

    def loss(index: Tensor) -> Tensor:
        distribution, values = agent(observations.flatten(0, 1)[index])
        log_probs = distribution.log_prob(actions.flatten()[index])
        return pg.loss(
            PPO,
            signals.steps(index),
            log_prob=log_probs,
            value=values,
            entropy=distribution.entropy(),
        ).loss

    return loss


class Collector:
    """Steps of environments that reset in the row after an episode's end, Gymnasium's default."""

    def __init__(self, environments: int, seed: int) -> None:
        """Make and reset the environments."""
        makers = [lambda: gymnasium.make("CartPole-v1")] * environments
        envs = gymnasium.vector.SyncVectorEnv(makers)
        self.envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
        self.observations: Any = self.envs.reset(seed=seed)[0]
        self.done = torch.zeros(environments, dtype=torch.bool)

    @torch.no_grad()
    def rollout(self, agent: Agent, steps: int) -> Rollout:
        """Return the next [T, N] steps."""
        kind, rows, previous_done = torch.get_default_dtype(), list[Any](), self.done
        for _ in range(steps):
            observations = torch.as_tensor(self.observations, dtype=kind)
            distribution, values = agent(observations)
            actions = distribution.sample()
            self.observations, rewards, *ends, _ = self.envs.step(actions.numpy())
            terminated, truncated = map(torch.as_tensor, ends)
            self.done = terminated | truncated
            log_probs, rewards = distribution.log_prob(actions), torch.as_tensor(rewards).to(kind)
            rows.append((observations, actions, log_probs, values, rewards, terminated, truncated))
        last_values = agent(torch.as_tensor(self.observations, dtype=kind))[1]
        columns = map(torch.stack, zip(*rows, strict=True))
        return Rollout(*columns, previous_done=previous_done, last_values=last_values)


def train(
    loss_of: Callable[[Agent, Rollout], Loss],
    *,
    updates: int,
    steps: int = 128,
    environments: int = 8,
    epochs: int = 4,
    minibatch: int = 256,
    seed: int = 0,
) -> Agent:
    """Return the trained agent."""
    torch.manual_seed(seed)
    agent, collector = Agent(), Collector(environments, seed)
    optimizer = torch.optim.Adam(agent.parameters(), lr=1e-3, eps=1e-5)
    for update in range(1, updates + 1):
        loss = loss_of(agent, collector.rollout(agent, steps))
        for _ in range(epochs):
            for index in torch.randperm(steps * environments).split(minibatch):
                optimizer.zero_grad()
                loss(index).backward()
                nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
                optimizer.step()
        if update % 10 == 0:
            print(f"update {update}  mean return {np.mean(collector.envs.return_queue):.0f}")
    return agent


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--loss", choices=("usual", "pgcore"), default="pgcore")
    parser.add_argument("--updates", type=int, default=60)
    options = parser.parse_args()
    train(usual if options.loss == "usual" else by_pgcore, updates=options.updates)
