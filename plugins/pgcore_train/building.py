"""What a configuration and an environment's spaces make: estimator, policy spec, optimizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

from gymnasium.spaces import Box, Discrete, MultiDiscrete

from pgcore.api import estimator, optimizer
from pgcore.cli.assignments import without_none
from pgcore.data.networks import MLP, Network, Table
from pgcore.data.spec import PolicySpec
from pgcore.errors import OptimizerError, SpecError
from pgcore.heads import (
    Bernoulli,
    Categorical,
    DiagonalGaussian,
    EpsilonGreedy,
    Head,
    MultiCategorical,
)
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.formula import OptimizerSpec
from pgcore.interfaces.optimizer import Optimizer, Rule
from pgcore.interfaces.schedules import ConstantSchedule, Schedule
from pgcore.registry.registry import load_class, registry
from pgcore.validation.fields import one_of, positive
from pgcore_train.config.config import RunConfig, check_known
from pgcore_train.config.settings import NetworkSettings
from pgcore_train.learning.replay_plan import learns_off_policy
from pgcore_train.rollout.environments import Actions, Environments

__all__ = ["make_estimator", "make_optimizer", "make_spec", "optimizer_class"]

ACTION_VALUES = frozenset(("action_value", "action_values"))
# Where nobody says: it is what is left when exploration has fallen, and every action that is not greedy costs return.
EPSILON = 0.05
# `pgcore train` reads these keys of section `optimizer` itself.
RATE_KEYS = ("learning_rate", "schedule", "final_learning_rate")


def make_estimator(config: RunConfig) -> Estimator:
    """Return the estimator that section `estimator` describes.

    Raises:
        UnknownNameError: no estimator of that name, or it has no such hyper-parameter.
        EstimatorError: a hyper-parameter has a value it cannot take.
    """
    fields = dict(config.estimator)
    name = fields.pop("name")
    return estimator(name, **without_none(dataclass_of("estimators", name), fields))


def optimizer_class(config: RunConfig, estimator: Estimator) -> type[OptimizerSpec | Rule]:
    """Return the class of the optimizer that section `optimizer` names, or else of the estimator's usual one.

    Raises:
        UnknownNameError: no optimizer of that name.
    """
    return cast(
        "type[OptimizerSpec | Rule]",
        dataclass_of("optimizers", config.optimizer.get("name", estimator.usual_optimizer)),
    )


def make_optimizer(
    config: RunConfig, cls: type[OptimizerSpec | Rule], steps: int | None, learning_rate: float
) -> Optimizer:
    """Return the optimizer that section `optimizer` describes.

    Where it has a learning rate the section also takes `schedule`, a registered name such as "constant",
    "linear" or "cosine", and `final_learning_rate`, which the rate goes to in the course of the run.

    Args:
        config: The run's.
        cls: What `optimizer_class` returned.
        steps: How many optimizer steps the run takes; None where that is not known, which only a constant rate can do with.
        learning_rate: Where the section has none and the optimizer is a first-order one.

    Raises:
        UnknownNameError: the optimizer has no such hyper-parameter.
        OptimizerError: a value cannot be taken, or the rate is to change over a run whose length is not known.
    """
    fields = {key: value for key, value in config.optimizer.items() if key != "name"}
    own = {field.name: field for field in dataclasses.fields(cast("Any", cls))}
    rated = "learning_rate" in own
    check_known(f"{cls.name} hyper-parameter", fields, own.keys() | set(RATE_KEYS if rated else ()))
    if rated:
        rate = fields.pop(
            "learning_rate", own["learning_rate"].default if cls.whole_batch else learning_rate
        )
        schedule = fields.pop("schedule", "constant" if steps is None else "linear")
        fields["learning_rate"] = make_rate(
            schedule, rate, fields.pop("final_learning_rate", 0.0), steps
        )
    if "max_grad_norm" in own:
        fields.setdefault("max_grad_norm", 0.5)
    return optimizer(cls.name, **without_none(cls, fields))


def make_rate(schedule: str, rate: float, final: float, steps: int | None) -> float | Schedule:
    """Return a learning rate or its schedule; see `make_optimizer`."""
    one_of("optimizer.schedule", schedule, registry().names("schedules"), OptimizerError)
    positive("optimizer.learning_rate", rate, OptimizerError)
    if schedule == ConstantSchedule.name:
        return rate
    return load_class("schedules", schedule, Schedule).over(initial=rate, final=final, steps=steps)


def make_spec(environments: Environments, config: RunConfig, estimator: Estimator) -> PolicySpec:
    """Return the policy that the spaces, the configuration and the estimator ask for.

    Raises:
        SpecError: the network does not take the observations, or a value cannot be taken.
        UnknownNameError: no head of that name, or it has no such field.
    """
    head = make_head(environments.actions, config.head, estimator)
    if isinstance(head, EpsilonGreedy) and "epsilon" not in config.head:
        head = dataclasses.replace(head, epsilon=EPSILON)
    of_actions = not head.action_values and not ACTION_VALUES.isdisjoint(estimator.quantities)
    critic = config.network.critic
    if critic == "auto":
        wanted = estimator.claims.needs_critic or "value" in estimator.quantities or of_actions
        critic = "separate" if wanted else "none"
    network = make_network(environments.observations, config.network, estimator)
    return PolicySpec(
        network, head, critic, "action" if of_actions and critic != "none" else "state"
    )


def make_network(space: Box | Discrete, settings: NetworkSettings, estimator: Estimator) -> Network:
    """Return the network for a space of observations; see `make_spec`."""
    discrete = isinstance(space, Discrete)
    name = settings.type
    if name == "auto":
        name = Table.name if discrete else MLP.name
    cls = load_class("networks", name, Network)
    names = [field.name for field in dataclasses.fields(cast("Any", cls))]
    if ("states" in names) != discrete:
        raise SpecError(
            f"network.type: expected {'table' if discrete else 'linear or mlp'} for observations {space}, got {settings.type!r}; "
            "leave it out to have the one that fits"
        )
    activation = settings.activation
    if activation == "auto":
        activation = "relu" if learns_off_policy(estimator) else "tanh"
    size = {"states": int(space.n)} if isinstance(space, Discrete) else {"inputs": space.shape[0]}
    fields = {**size, "hidden": settings.hidden, "activation": activation}
    try:
        return cast("Any", cls)(
            **{field: value for field, value in fields.items() if field in names}
        )
    except TypeError as error:
        raise SpecError(
            f"network.type: expected a network of {', '.join(fields)}, got {settings.type!r} with the fields "
            f"{', '.join(names)} ({error}); choose another"
        ) from error


def make_head(space: Actions, fields: Mapping[str, Any], estimator: Estimator) -> Head:
    """Return the head that the section names, or else the usual one for a space of actions; see `make_spec`."""
    usual, size = usual_head(space, estimator)
    cls = usual
    given = dict(fields)
    if (name := given.pop("name", None)) is not None:
        cls = cast("type[Head]", dataclass_of("heads", name))
        if (cls.discrete, cls.enumerable) != (usual.discrete, usual.enumerable):
            raise SpecError(
                f"head.name: expected a head for actions {space}, such as {usual.name!r}, got {name!r}; leave it out to have the usual one"
            )
    own = [field.name for field in dataclasses.fields(cast("Any", cls))]
    check_known(f"{cls.name} field", given, [field for field in own if field != "n"])
    if cls.bounded and isinstance(space, Box) and not space.is_bounded():
        raise SpecError(
            f"head.name: expected an environment with finite action bounds for {cls.name!r}, got {space}; choose 'diagonal_gaussian'"
        )
    return cast("Any", cls)(size, **given)


def usual_head(space: Actions, estimator: Estimator) -> tuple[type[Head], int | tuple[int, ...]]:
    """Return the class of the head for a space of actions, an epsilon-greedy one where all that is learned are action values, and its size."""
    if isinstance(space, Discrete):
        return EpsilonGreedy if ACTION_VALUES.issuperset(
            estimator.quantities
        ) else Categorical, int(space.n)
    if isinstance(space, MultiDiscrete):
        return MultiCategorical, tuple(space.nvec.tolist())
    return DiagonalGaussian if isinstance(space, Box) else Bernoulli, space.shape[0]


def dataclass_of(kind: str, name: str) -> type:
    """Return what is registered under a name."""
    return cast("type", registry().load(kind, name))
