"""Whether estimator, environment and settings fit, told in the names that the user gave."""

from __future__ import annotations

from pgcore.data.spec import PolicySpec
from pgcore.errors import EstimatorError, SpecError
from pgcore.heads import Head
from pgcore.interfaces.estimator import VALUES_OF_ACTIONS, Estimator, quantities_of
from pgcore_train.building import needs_critic
from pgcore_train.config.config import OPEN, RunConfig
from pgcore_train.learning.replay_plan import ACTION_VALUES
from pgcore_train.rollout.environments import Environments

__all__ = ["check_head", "check_spec"]


def check_head(
    config: RunConfig, environments: Environments, estimator: Estimator, head: Head
) -> None:
    """Raise unless an estimator learns with the environment's actions, the head and the critic.

    Args:
        config: The run's.
        environments: Their space of actions decided the head.
        estimator: Its claims and quantities decide.
        head: The action distribution.

    Raises:
        EstimatorError: the actions are not those that the estimator can learn.
        SpecError: a setting takes away a part that the estimator uses.
    """
    name, environment = config.estimator["name"], config.environment["name"]
    listed = estimator.claims.discrete_only or not ACTION_VALUES.isdisjoint(estimator.quantities)
    if listed and not head.enumerable:
        raise EstimatorError(
            f"{name} needs discrete actions, one Discrete space: {environment} has "
            f"{environments.actions}; choose another environment, or an estimator of any actions "
            f"such as {OPEN['estimator']}"
        )
    if head.action_values and VALUES_OF_ACTIONS.isdisjoint(estimator.quantities):
        raise SpecError(
            f"head.name: expected a head with probabilities that can be learned for {name}, got "
            f"{head.name!r}, which is of action values; leave it out"
        )
    if config.network.critic == "none" and needs_critic(estimator, head):
        raise SpecError(
            f"network.critic: expected 'separate' or 'shared' for {name}, which learns values, "
            "got 'none'; leave it out"
        )


def check_spec(config: RunConfig, estimator: Estimator, spec: PolicySpec) -> None:
    """Raise SpecError unless a spec has the quantities that the estimator uses."""
    needed = dict.fromkeys((*estimator.quantities, *estimator.evaluates))
    missing = [name for name in needed if name not in quantities_of(spec)]
    if not missing:
        return
    name = config.estimator["name"]
    # A coefficient of that name is how an estimator asks for a term of its own.
    coefficients = [f"estimator.{each}_coefficient" for each in missing]
    present = [each for each in coefficients if hasattr(estimator, each.partition(".")[2])]
    advice = f"set {present[0]}=0, or choose another head" if present else "choose another head"
    raise SpecError(
        f"head.name: expected a head with {', '.join(missing)} for {name}, got {spec.head.name!r} "
        f"without; {advice}"
    )
