"""A small language model learns to add from reward alone: `python examples/add_digits.py grpo`.

A prompt is "a+b=", an answer two digits. The model writes several answers to each prompt, a right one is rewarded with 1 and one right digit
of two with 0.2, and a group-relative estimator (rloo, grpo, dr_grpo, gspo, cispo, reinforce_pp) compares the answers to one prompt with each
other. No example of a sum is ever shown.
"""

import sys

import numpy as np
import torch
from torch import nn

import pgcore as pg

DIGITS, PLUS, EQUALS, BLANK = 10, 10, 11, 12
PROMPTS = np.array([(a, PLUS, b, EQUALS, BLANK) for a in range(10) for b in range(10)])
SUMS = np.array([divmod(a + b, 10) for a in range(10) for b in range(10)])


class Model(nn.Module):
    """The tokens so far [B, 5] to the logits of the next one, a digit; about 6,000 parameters."""

    def __init__(self) -> None:
        """Build the layers."""
        super().__init__()
        self.embedding = nn.Embedding(13, 12)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(60, 64), nn.Tanh(), nn.Linear(64, DIGITS))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return [B, 10] logits."""
        return self.layers(self.embedding(tokens))


def answers(policy: pg.Policy, chosen: np.ndarray, rng: np.random.Generator) -> pg.Batch:
    """Return answers to prompts, given by their numbers: episodes of two steps, those to one prompt a group."""
    context = PROMPTS[chosen].copy()
    first, first_log_prob = policy.act(context, rng)
    then = context.copy()
    then[:, 4] = first
    second, second_log_prob = policy.act(then, rng)
    right = np.stack([first, second], axis=1) == SUMS[chosen]
    reward = np.where(right.all(axis=1), 1.0, 0.2 * right.any(axis=1))
    return pg.Batch(
        observations=np.stack([context, then], axis=1).reshape(-1, 5),
        actions=np.stack([first, second], axis=1).reshape(-1),
        rewards=np.stack([np.zeros(len(chosen)), reward], axis=1).reshape(-1),
        log_probs=np.stack([first_log_prob, second_log_prob], axis=1).reshape(-1),
        episode_lengths=np.full(len(chosen), 2),
        terminated=np.ones(len(chosen), bool),
        extras={"group": np.repeat(chosen, 2)},
    )


def accuracy(policy: pg.Policy) -> float:
    """Return the share of all sums whose most probable answer is right."""
    first = policy.mode(PROMPTS)
    then = PROMPTS.copy()
    then[:, 4] = first
    return float((np.stack([first, policy.mode(then)], axis=1) == SUMS).all(axis=1).mean())


def learn(estimator: str, updates: int, seed: int = 0) -> pg.Policy:
    """Return the policy after some updates, each on 16 answers to 32 prompts, gone over twice."""
    torch.manual_seed(seed)
    policy = pg.backend("torch").adopt(Model(), head=pg.Categorical(DIGITS))
    objective, optimizer = pg.estimator(estimator), pg.optimizer("adam", learning_rate=3e-3, max_grad_norm=1.0)
    rng = pg.generator(seed)
    for update in range(1, updates + 1):
        batch = answers(policy, np.repeat(rng.choice(100, 32, replace=False), 16), rng)
        signals = pg.signals(policy, objective, batch)
        for _ in range(1 if estimator == "rloo" else 2):
            optimizer.step(policy, pg.gradient(policy, objective, batch, signals=signals))
        if update % 100 == 0:
            print(f"{estimator}  update {update:5}  right {accuracy(policy):4.0%}", flush=True)
    return policy


if __name__ == "__main__":
    learn(sys.argv[1] if len(sys.argv) > 1 else "grpo", updates=3000)
