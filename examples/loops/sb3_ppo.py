"""stable-baselines3's PPO with pgcore's loss: `python examples/loops/sb3_ppo.py --loss pgcore`.

`PgcorePPO` takes the parent's arguments, except those of a target KL and of value clipping.
"""

import argparse
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import obs_as_tensor

import pgcore as pg


class PgcorePPO(PPO):
    """PPO whose `train` has another loss, and the same numbers."""

    def estimator(self) -> pg.Estimator:
        """Return the estimator of the algorithm's settings at this point of training."""
        return pg.estimator(
            "ppo",
            gamma=self.gamma,
            gae_lambda=self.gae_lambda,
            clip=self.clip_range(self._current_progress_remaining),
            value_coefficient=2 * self.vf_coef,  # vf_coef weighs the square, this one its half
            entropy_coefficient=self.ent_coef,
            normalise="minibatch" if self.normalize_advantage else "none",
        )

    def episodes(self) -> pg.Episodes:
        """Return the episodes of the rollout buffer, laid out as [N, T].

        At a time limit the buffer's reward holds the bootstrap already, so that every end inside of
        it counts as terminated.
        """
        buffer, last = self.rollout_buffer, obs_as_tensor(self._last_obs, self.device)
        ends = np.concatenate([buffer.episode_starts[1:], self._last_episode_starts[None]]) == 1
        with torch.no_grad():
            last_values = self.policy.predict_values(last).flatten()
        return pg.Episodes.from_rollout(
            rewards=buffer.rewards.T,
            terminated=ends.T,
            truncated=np.zeros_like(ends.T),
            log_probs=buffer.log_probs.T,
            values=buffer.values.T,
            last_values=last_values,  # a tensor, so that signals are tensors on its device
            order="env",
            autoreset="same_step",
        )

    def train(self) -> None:
        """Update the policy from the rollout buffer."""
        if self.target_kl is not None or self.clip_range_vf is not None:
            raise NotImplementedError("PgcorePPO: expected no target_kl and no clip_range_vf")
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        estimator, buffer = self.estimator(), self.rollout_buffer
        signals = pg.signals(estimator, self.episodes())
        observations, actions = map(buffer.swap_and_flatten, (buffer.observations, buffer.actions))
        for _ in range(self.n_epochs):
            order = np.random.permutation(len(actions))  # noqa: NPY002 - the parent's generator
            for index in np.split(order, range(self.batch_size, len(order), self.batch_size)):
                taken = buffer.to_torch(actions[index])
                if isinstance(self.action_space, spaces.Discrete):
                    taken = taken.long().flatten()
                states = buffer.to_torch(observations[index])
                values, log_probs, entropy = self.policy.evaluate_actions(states, taken)
                quantities = {"log_prob": log_probs, "value": values.flatten()}
                if self.ent_coef != 0:
                    quantities["entropy"] = -log_probs if entropy is None else entropy
                out = pg.loss(estimator, signals.steps(index), **quantities)
                self.policy.optimizer.zero_grad()
                out.loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
        self._n_updates += self.n_epochs
        for name, figure in out.metrics.items():
            self.logger.record(f"train/{name}", figure)


def train(kind: type[PPO], steps: int, *, limit: int = 500, **options: Any) -> PPO:
    """Return an algorithm trained on CartPole-v1, in episodes of at most `limit` steps."""
    environments = make_vec_env("CartPole-v1", 4, 0, env_kwargs={"max_episode_steps": limit})
    settings = {"n_steps": 64, "batch_size": 64, "n_epochs": 4, "ent_coef": 0.01, "seed": 0}
    algorithm = kind("MlpPolicy", environments, device="cpu", **settings | options)
    return algorithm.learn(steps)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--loss", choices=("usual", "pgcore"), default="pgcore")
    parser.add_argument("--steps", type=int, default=20_000)
    parsed = parser.parse_args()
    train(PPO if parsed.loss == "usual" else PgcorePPO, parsed.steps, verbose=1)
