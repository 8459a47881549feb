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
    normalise: Callable[[Array], Array] | None = None,
    limit: int,
) -> Array:
    """Play one episode in each environment and return their undiscounted returns.

    Args:
        policy: Plays the mode of its action distribution; not changed.
        environments: `N` of them.
        normalise: Applied to observations before the policy, with fixed statistics; or None.
        limit: Largest number of steps; a longer episode counts with its return so far.

    Returns:
        [N] float64, environment units.
    """
    observations, head = environments.reset(), policy.spec.head
    returns, playing = np.zeros(environments.count), np.ones(environments.count, np.bool_)
    for _ in range(limit):
        if not playing.any():
            break
        seen = observations if normalise is None else normalise(observations)
        actions = head.environment_actions(policy.mode(seen, environments.action_mask))
        observations, rewards, terminated, truncated = environments.step(
            actions, bounded=head.bounded
        )
        # An environment that is done plays on beside the others, and no longer counts.
        returns += np.where(playing, rewards, 0.0)
        ended = terminated | truncated
        playing &= ~ended
        if ended.any():
            observations = environments.restart(ended)
    return returns
