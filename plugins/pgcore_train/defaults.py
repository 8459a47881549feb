"""Usual settings that depend on estimator, optimizer and spaces together."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from gymnasium.spaces import Box

from pgcore.interfaces.estimator import Estimator
from pgcore_train.config.config import RunConfig
from pgcore_train.rollout.environments import Environments

__all__ = ["normalised", "with_usual_entropy"]

# Coefficient of a table's entropy bonus, our choice by `benchmarks/defaults.py`: a table learns nothing
# of a state from others, and would settle before it has tried what it needs.
TABLE_ENTROPY = 0.02


def with_usual_entropy(config: RunConfig, estimator: Estimator) -> RunConfig:
    """Return the configuration of a table with the usual entropy bonus, for `make_estimator`.

    Args:
        config: A coefficient there, 0 included, is kept.
        estimator: Of that configuration; it may have no entropy bonus.
    """
    fields = [field.name for field in dataclasses.fields(cast("Any", estimator))]
    if "entropy_coefficient" not in fields:
        return config
    coefficient = {"entropy_coefficient": TABLE_ENTROPY}
    return dataclasses.replace(config, estimator=coefficient | dict(config.estimator))


def normalised(
    config: RunConfig,
    environments: Environments,
    estimator: Estimator,
    *,
    long: bool,
    replays: bool,
) -> tuple[bool, bool]:
    """Return whether observations and whether rewards are normalised, the usual where not set.

    A critic network has to reach the size of the returns before its advantages are of use, and does
    so soon in units of their deviation. A table gets large rates, and its values of 0 are a reason
    to explore where rewards are costs. Observations differ most in size where actions are
    continuous, and the statistics of a short rollout would change them too much.

    Args:
        config: Section `rollout` decides what it sets. A network of one's own gets observations as
            they are.
        environments: Their spaces decide.
        estimator: Rewards are usually normalised if it learns values of states.
        long: Whether rollouts are long.
        replays: Whether there is a replay buffer, whose steps would have the statistics of their
            time.
    """
    space, settings = environments.observations, config.rollout
    usual = isinstance(space, Box) and not replays
    observations, rewards = settings.normalise_observations, settings.normalise_rewards
    if observations is None:
        vectors = usual and len(space.shape or ()) == 1 and config.network.factory is None
        observations = vectors and long and isinstance(environments.actions, Box)
    if rewards is None:
        rewards = usual and "value" in estimator.quantities
    return observations, rewards
