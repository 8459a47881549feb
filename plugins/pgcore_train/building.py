"""Builders: estimator, optimizer and policy spec of a configuration and an environment's spaces."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space

from pgcore.api import estimator, optimizer
from pgcore.cli.assignments import without_none
from pgcore.data.convolution import Conv
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
from pgcore.interfaces.quantities import TWIN_VALUES
from pgcore.interfaces.schedules import ConstantSchedule, Schedule
from pgcore.registry.registry import load_class, registry
from pgcore.validation.fields import choice, positive
from pgcore_train.config.config import RunConfig, check_known
from pgcore_train.config.settings import LISTS, NetworkSettings
from pgcore_train.learning.replay_plan import ACTION_VALUES, learns_off_policy
from pgcore_train.rollout.environments import Actions, Environments

__all__ = ["critic_values_of", "head_of", "make_estimator", "make_optimizer", "make_spec"]
__all__ += ["needs_critic", "optimizer_class"]

# Probability, our choice, of exploration after its fall: each such step costs return.
EPSILON = 0.05
# Gradient norm, loss units per parameter unit; the usual bound of PPO since OpenAI Baselines.
MAX_GRAD_NORM = 0.5
# Keys of section `optimizer` that are no fields of a rated optimizer or mean more here.
RATE_KEYS = ("learning_rate", "schedule", "final_learning_rate")


def make_estimator(config: RunConfig) -> Estimator:
    """Return the estimator of section `estimator`.

    Raises:
        UnknownNameError: no estimator of that name, or it has no such hyper-parameter.
        EstimatorError: a hyper-parameter has a value it cannot take.
    """
    fields = dict(config.estimator)
    name = fields.pop("name")
    return estimator(name, **without_none(load_dataclass("estimators", name), fields))


def optimizer_class(config: RunConfig, estimator: Estimator) -> type[OptimizerSpec | Rule]:
    """Return the class of section `optimizer`, the estimator's usual one without a name there.

    Raises:
        UnknownNameError: no optimizer of that name.
    """
    name = config.optimizer.get("name", estimator.usual_optimizer)
    return cast("type[OptimizerSpec | Rule]", load_dataclass("optimizers", name))


def make_optimizer(
    config: RunConfig,
    cls: type[OptimizerSpec | Rule],
    steps: int | None,
    learning_rate: float,
    beta2: float | None = None,
) -> Optimizer:
    """Return the optimizer of section `optimizer`.

    For an optimizer with a learning rate the section also takes `schedule`, a registered name such
    as "constant", "linear" or "cosine", and `final_learning_rate`, the rate at the run's end.

    Args:
        config: The run's.
        cls: From `optimizer_class`.
        steps: Optimizer steps of the run; None if unknown, which needs a constant rate.
        learning_rate: Default rate, except for an optimizer of whole batches, which has its own.
        beta2: Default decay, for an optimizer with that field; None for its own.

    Raises:
        UnknownNameError: the optimizer has no such hyper-parameter.
        OptimizerError: a value cannot be taken, or the rate changes over a run of unknown length.
    """
    fields = {key: value for key, value in config.optimizer.items() if key != "name"}
    declared = {field.name: field for field in dataclasses.fields(cast("Any", cls))}
    rated = "learning_rate" in declared
    check_known(
        f"{cls.name} hyper-parameter", fields, declared.keys() | set(RATE_KEYS if rated else ())
    )

    # The two keys that describe a schedule become the one field that the optimizer has.
    if rated:
        default = declared["learning_rate"].default if cls.whole_batch else learning_rate
        fields["learning_rate"] = make_rate(
            fields.pop("schedule", "constant" if steps is None else "linear"),
            fields.pop("learning_rate", default),
            fields.pop("final_learning_rate", 0.0),
            steps,
        )
    if "beta2" in declared and beta2 is not None:
        fields.setdefault("beta2", beta2)
    if "max_grad_norm" in declared:
        fields.setdefault("max_grad_norm", MAX_GRAD_NORM)
    return optimizer(cls.name, **without_none(cls, fields))


def make_rate(schedule: str, rate: float, final: float, steps: int | None) -> float | Schedule:
    """Return a learning rate or its schedule; see `make_optimizer`.

    Args:
        schedule: A registered name.
        rate: At the first step.
        final: After the last step.
        steps: Optimizer steps in between, or None.
    """
    registry().refuse_disabled("schedules", schedule)
    choice(*registry().names("schedules"))("optimizer.schedule", schedule, OptimizerError)
    positive("optimizer.learning_rate", rate, OptimizerError)
    # A plain number, so that a checkpoint and `repr` show the rate alone.
    if schedule == ConstantSchedule.name:
        return rate
    return load_class("schedules", schedule, Schedule).over(initial=rate, final=final, steps=steps)


def make_spec(environments: Environments, config: RunConfig, estimator: Estimator) -> PolicySpec:
    """Return the policy spec for spaces, configuration and estimator.

    Args:
        environments: Their spaces decide network and head.
        config: Sections `network` and `head` override the usual choices.
        estimator: Its quantities and claims decide whether there is a critic.

    Raises:
        SpecError: the network does not take the observations, or a value cannot be taken.
        UnknownNameError: no head of that name, or it has no such field.
    """
    head = head_of(environments, config, estimator)
    critic = config.network.critic
    if critic == "auto":
        critic = "separate" if needs_critic(estimator, head) else "none"
    network = make_network(environments.observations, config.network, estimator)
    critic_of = "state" if critic == "none" else critic_values_of(estimator, head)
    return PolicySpec(network, head, critic, critic_of)


def head_of(environments: Environments, config: RunConfig, estimator: Estimator) -> Head:
    """Return the head for the environments' actions; see `make_spec`."""
    head = make_head(environments.actions, config.head, estimator)
    if isinstance(head, EpsilonGreedy) and "epsilon" not in config.head:
        head = dataclasses.replace(head, epsilon=EPSILON)
    return head


def needs_critic(estimator: Estimator, head: Head) -> bool:
    """Return whether an estimator needs a critic beside the head."""
    state = estimator.claims.needs_critic or "value" in estimator.quantities
    return state or of_actions(estimator, head)


def critic_values_of(estimator: Estimator, head: Head) -> str:
    """Return the values of a critic for an estimator; see `PolicySpec.critic_values`."""
    if not of_actions(estimator, head):
        return "state"
    return "action" if TWIN_VALUES.isdisjoint(estimator.quantities) else "twin"


def of_actions(estimator: Estimator, head: Head) -> bool:
    """Return whether a critic is of actions: a head of action values is its own critic."""
    return not head.action_values and not ACTION_VALUES.isdisjoint(estimator.quantities)


def make_network(space: Space[Any], settings: NetworkSettings, estimator: Estimator) -> Network:
    """Return the network for a space of observations; see `make_spec`."""
    size = size_of(space)
    main = next(iter(size))
    name = settings.type
    if name == "auto":
        name = {"states": Table.name, "image": Conv.name}.get(main, MLP.name)
    cls = load_class("networks", name, Network)
    names = [field.name for field in dataclasses.fields(cast("Any", cls))]
    # A network of states looks up a row for each; the others multiply real inputs.
    if main not in names:
        usual = {"states": "table", "inputs": "linear or mlp", "image": "conv"}[main]
        raise SpecError(
            f"network.type: expected {usual} for observations {space}, got {settings.type!r}; "
            "leave it out to have the one that fits"
        )
    activation = settings.activation
    if activation == "auto":
        activation = "relu" if main == "image" or learns_off_policy(estimator) else "tanh"

    # A registered network of a third party takes those of the usual fields that it declares.
    lists = {field: getattr(settings, field) for field in LISTS}
    fields = {**size, "activation": activation}
    fields |= {field: value for field, value in lists.items() if value is not None}
    arguments = {field: value for field, value in fields.items() if field in names}
    for field in ("channels", "kernels", "strides"):
        if field in fields and field not in names:
            raise SpecError(
                f"network.{field}: expected none for the network {name!r}, got {fields[field]}; "
                "leave it out, or choose a network of images"
            )
    try:
        return cast("Any", cls)(**arguments)
    except TypeError as error:
        raise SpecError(
            f"network.type: expected a network of {', '.join(fields)}, got {name!r} with "
            f"the fields {', '.join(names)} ({error}); choose another"
        ) from error


def size_of(space: Space[Any]) -> dict[str, Any]:
    """Return the fields of a network that a space of observations decides, the main one first."""
    if isinstance(space, Discrete):
        return {"states": int(space.n)}
    numbers = cast("Box", space)
    if len(numbers.shape) == 1:
        return {"inputs": numbers.shape[0]}
    # Bytes, and other integers within bounds, are scaled to [0, 1].
    whole = numbers.dtype.kind in "iu" and numbers.is_bounded()
    scale = float(max(np.abs(numbers.low).max(), np.abs(numbers.high).max())) if whole else 1.0
    return {"image": numbers.shape, "scale": scale or 1.0}


def make_head(space: Actions, fields: Mapping[str, Any], estimator: Estimator) -> Head:
    """Return the head for a space of actions, the usual one without a name; see `make_spec`.

    Args:
        space: Of one environment's actions.
        fields: Section `head`: maybe `name`, and fields of that head.
        estimator: Decides the usual head.
    """
    usual, size = usual_head(space, estimator)
    cls = usual
    arguments = dict(fields)
    if (name := arguments.pop("name", None)) is not None:
        cls = cast("type[Head]", load_dataclass("heads", name))
        # Heads of the same kind of actions may replace each other, such as two Gaussians.
        if (cls.discrete, cls.enumerable) != (usual.discrete, usual.enumerable):
            raise SpecError(
                f"head.name: expected a head for actions {space}, such as {usual.name!r}, "
                f"got {name!r}; leave it out to have the usual one"
            )
    names = [field.name for field in dataclasses.fields(cast("Any", cls))]
    # The number of actions is the space's to say.
    check_known(f"{cls.name} field", arguments, [field for field in names if field != "n"])
    if cls.bounded and isinstance(space, Box) and not space.is_bounded():
        raise SpecError(
            f"head.name: expected an environment with finite action bounds for {cls.name!r}, "
            f"got {space}; choose 'diagonal_gaussian'"
        )
    return cast("Any", cls)(size, **arguments)


def usual_head(space: Actions, estimator: Estimator) -> tuple[type[Head], int | tuple[int, ...]]:
    """Return the class and size of the usual head for a space of actions.

    An estimator of action values alone has an epsilon-greedy head for discrete actions.
    """
    if isinstance(space, Discrete):
        values_alone = ACTION_VALUES.issuperset(estimator.quantities)
        return (EpsilonGreedy if values_alone else Categorical), int(space.n)
    if isinstance(space, MultiDiscrete):
        return MultiCategorical, tuple(space.nvec.tolist())
    return (DiagonalGaussian if isinstance(space, Box) else Bernoulli), space.shape[0]


def load_dataclass(kind: str, name: str) -> type:
    """Return the registered class of a kind and name."""
    return cast("type", registry().load(kind, name))
