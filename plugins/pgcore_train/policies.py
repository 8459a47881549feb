"""A run's environments and its policy, whose network decides the form of observations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, cast

from pgcore.api import policy
from pgcore.data.networks import Network
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore.registry.registry import load_class
from pgcore_train.adopting import adopt_policy
from pgcore_train.building import critic_values_of, head_of, make_spec, needs_critic
from pgcore_train.config.config import RunConfig
from pgcore_train.config.settings import NetworkSettings
from pgcore_train.rollout.environments import Environments, make_environments
from pgcore_train.rollout.observations import Form

__all__ = ["environments_of", "form_of", "make_policy"]


def environments_of(config: RunConfig, count: int, entropy: Sequence[int] = (0,)) -> Environments:
    """Return a number of environments as the configuration wants them; see `Environments`."""
    arguments = dict(config.environment)
    return make_environments(
        arguments.pop("name"),
        count,
        arguments,
        entropy,
        form=form_of(config.network),
        action_masks=config.rollout.action_masks,
        processes=config.rollout.processes,
    )


def form_of(settings: NetworkSettings) -> Form:
    """Return the form of observations that the network of section `network` takes."""
    if settings.factory is not None:
        return Form.NATIVE
    if settings.type == "auto":
        return Form.AUTO
    cls = cast("Any", load_class("networks", settings.type, Network))
    # The field that a space decides tells what the network multiplies.
    names = {field.name for field in dataclasses.fields(cls)}
    return Form.IMAGE if "image" in names else Form.FLAT


def make_policy(environments: Environments, config: RunConfig, estimator: Estimator) -> Policy:
    """Return the policy; see `make_spec` and `adopt_policy`."""
    run = config.run
    if config.network.factory is None:
        return policy(
            make_spec(environments, config, estimator),
            backend=run.backend,
            seed=run.seed,
            dtype=run.dtype,
            device=run.device,
            compiled=run.compiled,
        )
    head = head_of(environments, config, estimator)
    return adopt_policy(
        config,
        environments.native_observations,
        environments.actions,
        head,
        needs_critic=needs_critic(estimator, head),
        critic_values=critic_values_of(estimator, head),
    )
