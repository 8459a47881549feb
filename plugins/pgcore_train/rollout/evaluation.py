"""Evaluation: whole episodes with the most probable actions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pgcore.interfaces.policy import Policy
from pgcore.validation.arrays import Array
from pgcore_train.rollout.environments import Environments

__all__ = ["evaluate"]


def evaluate(
    policy: Policy,
    environments: Environments,
    *,
    seeds: list[int],
    normalise: Callable[[Array], Array] | None = None,
    limit: int,
) -> Array:
    """Play one episode in each environment and return their [N] float64 undiscounted returns, environment units.

    Args:
        policy: Plays the mode of its action distribution; not changed.
        environments: `N` of them.
        seeds: One for each.
        normalise: What observations go through on their way to the policy; its statistics are not changed.
        limit: Steps of an episode to play at most; one that goes on counts with what it has by then.
    """
    observations, head = environments.reset(seeds), policy.spec.head
    returns, playing = np.zeros(environments.count), np.ones(environments.count, np.bool_)
    for _ in range(limit):
        if not playing.any():
            break
        seen = observations if normalise is None else normalise(observations)
        given = head.environment_actions(policy.mode(seen))
        observations, rewards, terminated, truncated = environments.step(
            given, bounded=head.bounded
        )
        returns += np.where(playing, rewards, 0.0)
        ended = terminated | truncated
        playing &= ~ended
        if ended.any():
            observations = environments.restart(ended)
    return returns
