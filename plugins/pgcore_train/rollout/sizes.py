"""The sizes of a run, refused where they do not fit into memory before it starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.spaces import Space

from pgcore_train.config.config import RunConfig
from pgcore_train.learning.replay_plan import ReplayPlan
from pgcore_train.memory import check_memory, measured
from pgcore_train.rollout.environments import Environments, make_environments
from pgcore_train.rollout.observations import leaves

__all__ = ["bytes_of", "check_arrays", "check_environments"]

# Environments, our choice: fewer fit everywhere, and measuring one takes as long as making two.
MANY = 1_000
# Bytes of a process with one environment that it shares with no other: a lower bound. Those of
# CartPole-v1 and Taxi-v4 have 19 MiB on Linux, and 18 MiB of libraries that all of them share.
PROCESS = 16 * 2**20
# Bytes of a step beside observation and action: reward and log-probability.
SCALARS = 16


def check_environments(
    environment: Mapping[str, Any], envs: int, episodes: int, *, processes: bool = False
) -> None:
    """Raise SpecError unless the environments of training and those of evaluation fit into memory.

    Args:
        environment: Section `environment`.
        envs: Those of training.
        episodes: Of evaluation, each with an environment of its own.
        processes: Whether each environment has a process of its own.
    """
    arguments = dict(environment)
    name = arguments.pop("name")
    for where, count in (("rollout.envs", envs), ("run.evaluation_episodes", episodes)):
        size = PROCESS if processes else 0
        if count > MANY:
            size += measured(lambda: make_environments(name, 1, arguments))
        check_memory(where, count, size)


def check_arrays(
    config: RunConfig, environments: Environments, length: int, plan: ReplayPlan | None
) -> None:
    """Raise SpecError unless the arrays of a rollout and of a replay buffer fit into memory.

    Args:
        config: The run's.
        environments: Those of training.
        length: Steps of each environment in a rollout.
        plan: The replay buffer's, or None.
    """
    observation, action = bytes_of(environments.observations), bytes_of(environments.actions)
    step = observation + action + SCALARS
    if config.rollout.length is None:
        check_memory("rollout.envs", environments.count, length * step)
    else:
        check_memory("rollout.length", length, environments.count * step)
    if plan is not None:
        # A transition has the next observation too.
        check_memory("replay.capacity", plan.capacity, step + observation)
        check_memory("replay.batch", plan.batch, step + observation)


def bytes_of(space: Space[Any]) -> int:
    """Return the bytes of one element of a space of arrays, or of a `Dict` or `Tuple` of them."""
    return sum(
        np.dtype(leaf.dtype).itemsize * math.prod(leaf.shape or ()) for _, leaf in leaves(space)
    )
