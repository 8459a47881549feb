"""Batches of equal episodes with possible actions, for policies on a device."""

from __future__ import annotations

import numpy as np

import pgcore as pg

__all__ = ["EPISODES", "LENGTH", "STEPS", "make_batch"]

EPISODES, LENGTH = 16, 6
STEPS = EPISODES * LENGTH


def make_batch(seed=0, **fields):
    """Return equal episodes with everything that the losses read."""
    rng = np.random.default_rng(seed)
    mask = rng.random((STEPS, 3)) < 0.8
    actions = rng.integers(0, 3, STEPS)
    mask[np.arange(STEPS), actions] = True
    usual = {
        "observations": rng.standard_normal((STEPS, 4)),
        "actions": actions,
        "action_mask": mask,
        "rewards": rng.standard_normal(STEPS),
        "episode_lengths": [LENGTH] * EPISODES,
        "terminated": [True] * EPISODES,
        "log_probs": rng.uniform(-1.5, -0.5, STEPS),
        "extras": {"group": np.repeat(np.arange(4), STEPS // 4)},
    }
    return pg.Batch(**(usual | fields))
