"""The estimator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import pgcore as pg
from pgcore.interfaces.estimator import Evaluate
from pgcore.returns import by_group, episode_rewards
from pgcore.validation.arrays import Array
from pgcore.validation.fields import Positive

__all__ = ["DAPO"]


def two_groups(batch: pg.Batch, _shape: tuple[int, ...], _rng: np.random.Generator) -> Array:
    """Return an example of `group`: two groups that take turns."""
    return batch.episode_of_step % 2


def penalties(_batch: pg.Batch, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return an example of `overlong`."""
    return -rng.random(shape)


@dataclass(frozen=True)
class DAPO(pg.Estimator):
    """Decoupled clips, and advantages relative to a group of answers.

    loss = mean over tokens of -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)

    An episode is an answer, a step a token. r is the ratio of the current policy to the one that
    answered, A = (R - mean) / (std + eps) over the group, R the answer's reward less the penalty
    of its length.

    Attributes:
        clip_low: r is held above 1 - clip_low.
        clip_high: r is held below 1 + clip_high.
        eps: Added to the standard deviation, reward units.
    """

    clip_low: Positive = 0.2
    clip_high: Positive = 0.28
    eps: Positive = 1e-6
    reduction = pg.Reduction.STEP
    name: ClassVar[str] = "dapo"
    extras: ClassVar[Mapping[str, pg.Extra]] = {
        "group": pg.Extra("[B] integer", "one number for the answers to one prompt", two_groups),
        "overlong": pg.Extra(
            "[B] float", "penalties of length, at most 0, reward units", penalties
        ),
    }
    sources: ClassVar[tuple[str, ...]] = ("Yu et al. 2025, eqs. 8, 9 and 13, arXiv:2503.14476",)

    @property
    def claims(self) -> pg.Claims:
        """`pgcore audit` confirms or refutes each of them."""
        return pg.Claims(
            unbiased=False,
            off_policy="limited",
            needs_critic=False,
            discrete_only=False,
            whole_episodes=True,
        )

    def signals(self, batch: pg.Batch, evaluate: Evaluate) -> Mapping[str, Array]:
        """Return the constants of the loss, [B] each, from the whole batch, in NumPy."""
        rewards = episode_rewards(batch, batch.rewards + batch.extras["overlong"])
        advantage = by_group(self.relative, rewards, batch)
        old_log_prob = batch.log_probs
        # Without a record the policy itself has answered.
        if old_log_prob is None:
            old_log_prob = evaluate("log_prob")["log_prob"]
        return {"advantage": advantage[batch.episode_of_step], "old_log_prob": old_log_prob}

    def relative(self, rewards: Array) -> Array:
        """Return [n] advantages of one group's answers."""
        return (rewards - rewards.mean()) / (rewards.std() + self.eps)

    def surrogate(self, xp: Any, *, log_prob: Any, old_log_prob: Any, advantage: Any) -> Any:
        """Return [B], the loss's term of each step, written with `xp` and operators alone."""
        ratio = xp.exp(log_prob - old_log_prob)
        clipped = xp.clip(ratio, 1.0 - self.clip_low, 1.0 + self.clip_high)
        return -xp.minimum(ratio * advantage, clipped * advantage)
