"""PPO on CartPole-v1 with Flax and Optax: `python examples/loops/ppo_jax.py --loss pgcore`.

`Usual` is the loss as it is written by hand, `ByPgcore` the same one of `pgcore.loss`. What each prepares
from a rollout is a tree of arrays, an argument of the jitted step.
"""

import argparse
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.training.train_state import TrainState

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
    """A policy and a critic: [..., 4] observations to [..., 2] log-probabilities and [...] values."""

    @nn.compact
    def __call__(self, observations: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return log-probabilities and values."""
        logits = nn.Dense(2)(nn.tanh(nn.Dense(64)(observations)))
        values = nn.Dense(1)(nn.tanh(nn.Dense(64)(observations)))
        return nn.log_softmax(logits), values[..., 0]


class Rollout(NamedTuple):
    """[T, N, ...] arrays of T steps in N environments, and [N] values of what follows them."""

    observations: Any
    actions: Any
    log_probs: Any
    values: Any
    rewards: Any
    terminated: Any
    truncated: Any
    final_values: Any
    last_values: Any


def evaluated(params: Any, rollout: Rollout, index: Any) -> tuple[Any, Any, Any]:
    """Return log-probabilities, values and entropies of [n] positions in the flattened rollout."""
    rows = rollout.observations.reshape(-1, rollout.observations.shape[-1])[index]
    log_pi, values = Agent().apply(params, rows)
    log_probs = jnp.take_along_axis(log_pi, rollout.actions.reshape(-1, 1)[index], 1)[:, 0]
    return log_probs, values, -jnp.sum(jnp.exp(log_pi) * log_pi, -1)


class Usual:
    """The loss by hand."""

    @staticmethod
    @jax.jit
    def prepare(rollout: Rollout) -> Any:
        """Return [T, N] advantages and returns; a truncated episode bootstraps from its final value."""
        done = rollout.terminated | rollout.truncated
        following = jnp.concatenate([rollout.values[1:], rollout.last_values[None]])
        following = jnp.where(rollout.truncated, rollout.final_values, following)
        following = jnp.where(rollout.terminated, 0.0, following)
        deltas = rollout.rewards + GAMMA * following - rollout.values

        def earlier(advantage: Any, row: Any) -> tuple[Any, Any]:
            delta, ends = row
            advantage = delta + GAMMA * LAMBDA * jnp.where(ends, 0.0, advantage)
            return advantage, advantage

        start = jnp.zeros_like(deltas[0])
        _, advantages = jax.lax.scan(earlier, start, (deltas, done), reverse=True)
        return advantages, advantages + rollout.values

    @staticmethod
    def loss(params: Any, rollout: Rollout, prepared: Any, index: Any) -> jax.Array:
        """Return the loss of a minibatch."""
        log_probs, values, entropy = evaluated(params, rollout, index)
        advantages, returns = (array.reshape(-1)[index] for array in prepared)
        advantages = (advantages - advantages.mean()) / (advantages.std(ddof=1) + 1e-8)
        ratio = jnp.exp(log_probs - rollout.log_probs.reshape(-1)[index])
        gain = jnp.minimum(advantages * ratio, advantages * ratio.clip(1 - CLIP, 1 + CLIP))
        critic = 0.5 * jnp.square(values - returns)
        return jnp.mean(-gain + VALUE * critic - ENTROPY * entropy)


class ByPgcore:
    """The same loss of `pgcore.loss`; signals are a tree of arrays."""

    @staticmethod
    def prepare(rollout: Rollout) -> Any:
        """Return the signals of a rollout, outside of jitted code."""
        recorded = rollout._asdict()
        del recorded["observations"], recorded["actions"]
        return pg.signals(PPO, pg.Episodes.from_rollout(**recorded, autoreset="same_step"))

    @staticmethod
    def loss(params: Any, rollout: Rollout, prepared: Any, index: Any) -> jax.Array:
        """Return the loss of a minibatch."""
        log_probs, values, entropy = evaluated(params, rollout, index)
        part = prepared.steps(index)
        return pg.loss(PPO, part, log_prob=log_probs, value=values, entropy=entropy).loss


@partial(jax.jit, static_argnames="loss")
def step(
    state: TrainState, rollout: Rollout, prepared: Any, index: Any, *, loss: Any
) -> TrainState:
    """Return the state after one optimizer step on a minibatch."""
    return state.apply_gradients(grads=jax.grad(loss)(state.params, rollout, prepared, index))


class Collector:
    """Steps of environments that reset in the step of an episode's end."""

    def __init__(self, environments: int, seed: int, limit: int) -> None:
        """Make and reset the environments, whose episodes have at most `limit` steps."""
        makers = [partial(gymnasium.make, "CartPole-v1", max_episode_steps=limit)] * environments
        mode = gymnasium.vector.AutoresetMode.SAME_STEP
        envs = gymnasium.vector.SyncVectorEnv(makers, autoreset_mode=mode)
        self.envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
        self.observations: Any = self.envs.reset(seed=seed)[0]
        self.rng, self.apply = np.random.default_rng(seed), jax.jit(Agent().apply)

    def rollout(self, params: Any, steps: int) -> Rollout:
        """Return the next [T, N] steps."""
        rows = list[Any]()
        for _ in range(steps):
            observations = self.observations
            log_pi, values = map(np.asarray, self.apply(params, observations))
            actions = (self.rng.random(len(log_pi)) < np.exp(log_pi[:, 1])).astype(int)
            log_probs = log_pi[np.arange(len(actions)), actions]
            self.observations, rewards, terminated, truncated, info = self.envs.step(actions)
            final_values, done = np.zeros_like(values), terminated | truncated
            if done.any():
                final = self.observations.copy()
                final[done] = np.stack(info["final_obs"][done])
                final_values = np.asarray(self.apply(params, final)[1])
            row = (observations, actions, log_probs, values, rewards, terminated, truncated)
            rows.append((*row, final_values))
        last_values = self.apply(params, self.observations)[1]
        columns = (jnp.asarray(np.stack(column)) for column in zip(*rows, strict=True))
        return Rollout(*columns, last_values=last_values)


def initial(seed: int) -> TrainState:
    """Return parameters and an optimizer."""
    params = Agent().init(jax.random.key(seed), jnp.zeros((1, 4)))
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-3, eps=1e-5))
    return TrainState.create(apply_fn=Agent().apply, params=params, tx=optimizer)


def train(
    algorithm: Any,
    state: TrainState,
    *,
    updates: int,
    steps: int = 128,
    environments: int = 8,
    epochs: int = 4,
    minibatch: int = 256,
    limit: int = 500,
    seed: int = 0,
) -> TrainState:
    """Return the trained state."""
    collector, rng = Collector(environments, seed, limit), np.random.default_rng(seed)
    for update in range(1, updates + 1):
        rollout = collector.rollout(state.params, steps)
        prepared = algorithm.prepare(rollout)
        for _ in range(epochs):
            order = rng.permutation(steps * environments)
            for index in order.reshape(-1, minibatch):
                state = step(state, rollout, prepared, index, loss=algorithm.loss)
        if update % 10 == 0:
            print(f"update {update}  mean return {np.mean(collector.envs.return_queue):.0f}")
    return state


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--loss", choices=("usual", "pgcore"), default="pgcore")
    parser.add_argument("--updates", type=int, default=60)
    options = parser.parse_args()
    chosen = Usual if options.loss == "usual" else ByPgcore
    train(chosen, initial(0), updates=options.updates)
