"""Policies around networks of the user's own, which a function makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from gymnasium.spaces import Space

from pgcore.api import backend
from pgcore.errors import PgcoreError, SpecError
from pgcore.heads import Head
from pgcore.interfaces.policy import Policy
from pgcore_train.config.config import RunConfig, check_known
from pgcore_train.config.functions import load_function

__all__ = ["adopt_policy"]

WHERE = "network.factory"
EXAMPLE = "--network my_module:make_network"
# The parts of a factory's result: arguments of `Backend.adopt`.
PARTS = ("network", "critic", "evaluation_mode")


def adopt_policy(
    config: RunConfig,
    observations: Space[Any],
    actions: Space[Any],
    head: Head,
    *,
    needs_critic: bool,
    critic_values: str,
) -> Policy:
    """Return the policy around the network that `network.factory` makes.

    The factory gets the space of observations, that of actions, both as the environment has them, and
    the run's seed. It returns the network, or a dict with `network`, `critic` and `evaluation_mode`, as
    `Backend.adopt` takes them.

    Args:
        config: The run's.
        observations: Of one environment.
        actions: Of one environment.
        head: The action distribution, whose natural parameters the network returns.
        needs_critic: Whether the estimator does.
        critic_values: See `Backend.adopt`.

    Raises:
        SpecError: the function or its result is unfit, or settings contradict it.
    """
    run, target = config.run, config.network.factory
    factory = load_function(WHERE, target, "two spaces and a seed", EXAMPLE)
    where = f"{WHERE}, {target}"
    try:
        made = factory(observations, actions, run.seed)
    except PgcoreError:
        raise
    except Exception as error:
        raise SpecError(
            f"{where}: expected a network from the space of observations, that of actions and the seed, "
            f"got {type(error).__name__} ({error}); correct that function"
        ) from error
    parts = (
        dict(cast("Mapping[str, Any]", made)) if isinstance(made, Mapping) else {"network": made}
    )
    check_known(f"{where}: part", parts, PARTS)
    network, critic = parts.get("network"), parts.get("critic")
    if network is None or (needs_critic and critic is None):
        lack = (
            "a network" if network is None else f"a critic, which {config.estimator['name']} needs"
        )
        raise SpecError(
            f"{where}: expected {lack}, got none; return {{'network': ..., 'critic': ...}}, with another "
            "network of values, or 'shared' where the network returns outputs and values"
        )
    check_place(run.device)
    policy = backend(run.backend).adopt(
        network,
        head,
        critic,
        critic_values=critic_values if critic is not None else "state",
        compiled=run.compiled,
        evaluation_mode=bool(parts.get("evaluation_mode", False)),
    )
    if policy.dtype.name != run.dtype:
        raise SpecError(
            f"run.dtype: expected {policy.dtype.name}, that of the network of {target}, "
            f"got {run.dtype}; set --dtype {policy.dtype.name}"
        )
    return policy


def check_place(device: str | None) -> None:
    """Raise SpecError for a device: the network is where the factory made it."""
    if device is not None:
        raise SpecError(
            f"run.device: expected none beside {WHERE}, got {device!r}; make the network on that device"
        )
