"""Usual settings that depend on estimator, optimizer and spaces together."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

from gymnasium.spaces import Box

from pgcore.heads import Head
from pgcore.interfaces.estimator import Estimator
from pgcore_train.config.config import RunConfig
from pgcore_train.learning.updates import Plan
from pgcore_train.rollout.environments import Environments

__all__ = ["normalised", "with_usual_entropy"]

# Coefficients of the entropy bonus, our choice by `benchmarks/defaults.py`: a table learns nothing of a
# state from others, and would settle before it has tried what it needs. A network that is stepped
# once a batch has that of Mnih et al. 2016; several passes within a clip range need none.
TABLE_ENTROPY, ENTROPY_OF_ONE = 0.02, 0.01


def with_usual_entropy(
    config: RunConfig, estimator: Estimator, head: Head, plan: Plan
) -> RunConfig:
    """Return the configuration with the usual entropy bonus, for `make_estimator`.

    Args:
        config: A coefficient there, 0 included, is kept.
        estimator: Of that configuration. It may have no bonus, or a larger one by default.
        head: It may have no entropy in closed form.
        plan: No bonus is usual for an optimizer of whole batches, which limits the change itself.
    """
    # A class may hold the coefficient as a constant, which is no hyper-parameter.
    fields = [field.name for field in dataclasses.fields(cast("Any", estimator)) if field.init]
    own = getattr(estimator, "entropy_coefficient", 0.0)
    usual = TABLE_ENTROPY if plan.table else ENTROPY_OF_ONE
    # Beside returns of any size, the size of a bonus means little.
    unfit = "entropy" not in head.quantities
    unfit |= not plan.table and (plan.epochs > 1 or "value" not in estimator.quantities)
    if "entropy_coefficient" not in fields or own >= usual or plan.whole_batch or unfit:
        return config
    return dataclasses.replace(config, estimator={"entropy_coefficient": usual, **config.estimator})


def normalised(
    config: RunConfig,
    environments: Environments,
    estimator: Estimator,
    *,
    scaled: bool,
) -> tuple[bool, bool]:
    """Return whether observations and whether rewards are normalised, the usual where not set.

    A critic network has to reach the size of the returns before its advantages are of use, and does
    so soon in units of their deviation. A table gets large rates, and its values of 0 are a reason
    to explore where rewards are costs. Observations differ most in size where actions are
    continuous.

    Args:
        config: Section `rollout` decides where it sets them. A network of one's own gets
            observations as they are.
        environments: Their spaces decide.
        estimator: Rewards are usually normalised if it learns values of states.
        scaled: Whether nothing is usual: there is a replay buffer, whose steps would have the
            statistics of their time, or the optimizer's own rate is for the loss as it is.
    """
    space, settings = environments.observations, config.rollout
    usual = isinstance(space, Box) and not scaled
    observations, rewards = settings.normalise_observations, settings.normalise_rewards
    if observations is None:
        vectors = usual and len(space.shape or ()) == 1 and config.network.factory is None
        observations = vectors and isinstance(environments.actions, Box)
    if rewards is None:
        rewards = usual and "value" in estimator.quantities
    return observations, rewards
