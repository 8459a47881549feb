"""A small language model learns to copy from reward alone: `python examples/copy_digits.py grpo`.

A prompt is three digits, and so is an answer. Its reward is 1 if it equals the prompt, else a tenth
for each right digit. The model writes several answers to each prompt, and a group-relative
estimator (rloo, grpo, dr_grpo, gspo, cispo, reinforce_pp) compares them with each other.
"""

import sys

import numpy as np
import torch
from torch import nn

import pgcore as pg

# The blank stands for digits of the answer that are still to come.
DIGITS, BLANK, LENGTH = 10, 10, 3
PROMPTS, ANSWERS = 32, 24


class Model(nn.Module):
    """Prompt and answer so far, [B, 6] tokens, to logits of the next digit; 6,000 parameters."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.embedding = nn.Embedding(DIGITS + 1, 12)
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(12 * 2 * LENGTH, 64), nn.Tanh(), nn.Linear(64, DIGITS)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [B, 10] logits."""
        return self.layers(self.embedding(tokens))


def answers(policy: pg.Policy, prompts: np.ndarray, rng: np.random.Generator) -> pg.Batch:
    """Return one answer to each of [E, 3] prompts: episodes of three steps, grouped by prompt."""
    episodes = len(prompts)
    context = np.concatenate([prompts, np.full_like(prompts, BLANK)], axis=1)
    observations = np.empty((episodes, LENGTH, 2 * LENGTH), int)
    log_probs = np.empty((episodes, LENGTH))
    for t in range(LENGTH):
        observations[:, t] = context
        context[:, LENGTH + t], log_probs[:, t] = policy.act(context, rng)
    # The reward comes with the last digit; the digits before it have 0.
    right = context[:, LENGTH:] == prompts
    rewards = np.zeros((episodes, LENGTH))
    rewards[:, -1] = np.where(right.all(axis=1), 1.0, 0.1 * right.sum(axis=1))
    return pg.Batch(
        observations=observations.reshape(-1, 2 * LENGTH),
        actions=context[:, LENGTH:].reshape(-1),
        rewards=rewards.reshape(-1),
        log_probs=log_probs.reshape(-1),
        episode_lengths=np.full(episodes, LENGTH),
        terminated=np.ones(episodes, bool),
        extras={"group": np.repeat(prompts @ [100, 10, 1], LENGTH)},
    )


def learn(estimator: str, updates: int, seed: int = 0) -> list[float]:
    """Train for some updates; return the share of right answers in each."""
    torch.manual_seed(seed)
    policy = pg.backend("torch").adopt(Model(), head=pg.Categorical(DIGITS))
    objective = pg.estimator(estimator)
    optimizer = pg.optimizer("adam", learning_rate=3e-3, max_grad_norm=1.0)
    rng = pg.generator(seed)
    shares: list[float] = []
    for update in range(1, updates + 1):
        prompts = rng.integers(0, DIGITS, (PROMPTS, LENGTH))
        batch = answers(policy, np.repeat(prompts, ANSWERS, axis=0), rng)
        signals = pg.signals(policy, objective, batch)
        # An estimator that weighs steps by pi / pi_old can go over a batch more than once.
        for _ in range(2 if "old_log_prob" in objective.keywords else 1):
            optimizer.step(policy, pg.gradient(policy, objective, batch, signals=signals))
        shares.append(float((batch.rewards[LENGTH - 1 :: LENGTH] == 1.0).mean()))
        if update % 50 == 0:
            print(
                f"{estimator:12}  update {update:4}  right answers {np.mean(shares[-50:]):4.0%}",
                flush=True,
            )
    return shares


if __name__ == "__main__":
    torch.set_num_threads(1)  # more get in each other's way in so small a model
    learn(sys.argv[1] if len(sys.argv) > 1 else "grpo", updates=600)
