"""The settings of training itself: one frozen dataclass for each closed section."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, cast

from pgcore.data.files import checked_path
from pgcore.errors import FileError, PgcoreError, SpecError
from pgcore.registry.registry import default_backend_name, registry
from pgcore.validation.fields import (
    Checked,
    NonNegative,
    Number,
    UnitInterval,
    check_fields,
    choice,
    count,
    count_from_zero,
    instance_of,
    positive,
    set_field,
    unit_interval,
)
from pgcore.wording import shown

__all__ = [
    "LISTS",
    "ExplorationSettings",
    "NetworkSettings",
    "ReplaySettings",
    "RolloutSettings",
    "RunSettings",
    "TargetSettings",
    "TrainingSettings",
]


def name(where: str, value: object, error: type[PgcoreError] = SpecError) -> str:
    """Return the value, or raise unless it is a string that is not empty."""
    if not isinstance(value, str) or not value:
        raise error(f"{where}: expected a name, got {value!r}; give one")
    return value


def path(where: str, value: object, error: type[PgcoreError] = SpecError) -> str:
    """Return the value, or raise unless it is a path that a file and TOML can have.

    See `checked_path`.
    """
    text = str(checked_path(where, name(where, value, error)))
    try:
        text.encode()
    except UnicodeEncodeError as problem:
        raise FileError(
            f"{where}: expected a path in UTF-8, which run.toml can have, got {shown(text)}; "
            "leave those characters out"
        ) from problem
    return text


def whole(value: object) -> object:
    """Return a whole number as an int, NaN for anything else; 1e6 is a whole number here."""
    return count.plain(int(value) if isinstance(value, float) and value.is_integer() else value)


def toml_flag(where: str, value: object, error: type[PgcoreError] = SpecError) -> bool:
    """Return the value, or raise in TOML's spelling unless it is a bool."""
    if not isinstance(value, bool):
        raise error(f"{where}: expected true or false, got {value!r}; give one of the two")
    return value


# Fields of a network that are one number a layer.
LISTS = ("hidden", "channels", "kernels", "strides")

# Fields with a check of this module; the others are those of `pgcore.validation.fields`.
Name = Annotated[str, name]
FilePath = Annotated[str, path]
Size = Annotated[int, replace(count, plain=whole)]
SizeFromZero = Annotated[int, replace(count_from_zero, plain=whole)]
TomlFlag = Annotated[bool, toml_flag]


@dataclass(frozen=True, slots=True)
class RunSettings(Checked):
    """Section `run`.

    Attributes:
        backend: A registered name.
        device: For a backend with several; None is its default.
        compiled: Whether the backend compiles its computations, if it can choose.
        seed: At least 0; seeds parameters, actions, environments and minibatches.
        dtype: "float32" or "float64".
        steps: Environment steps of training, all environments together; the rollout that reaches
            them is the last.
        schedule_steps: Environment steps over which the learning rate and epsilon fall; None is
            `steps`. A run that is to be continued with more `steps` later has those here.
        stop_at: Mean return of the last 20 finished episodes at which to stop, environment units;
            None trains for all steps.
        out: Folder of the results, without those of another run; None is a new one,
            `runs/ENV-ESTIMATOR-SEED-n`.
        evaluation_episodes: Episodes with the most probable actions after training; 0 plays none.
        checkpoint_minutes: Minutes from one checkpoint to the next, and more where writing one takes
            over 2 % of the time; 0 for none by the clock.
        checkpoint_updates: Updates from one checkpoint to the next, beside those by the clock; 0 for
            none.
        unwritable: What a disk that takes no more does to training: "continue" or "stop".
    """

    section = "run"
    backend: Name = field(default_factory=default_backend_name)
    device: Name | None = None
    compiled: TomlFlag = False
    seed: SizeFromZero = 0
    dtype: Annotated[str, choice("float32", "float64")] = "float32"
    # How long to train, and where the results go.
    steps: Size = 100_000
    schedule_steps: Size | None = None
    stop_at: Number | None = None
    out: FilePath | None = None
    evaluation_episodes: SizeFromZero = 10
    checkpoint_minutes: NonNegative = 1.0
    checkpoint_updates: SizeFromZero = 0
    unwritable: Annotated[str, choice("continue", "stop")] = "continue"


@dataclass(frozen=True, slots=True)
class NetworkSettings(Checked):
    """Section `network`.

    Attributes:
        type: A registered name such as "table", "linear", "mlp" or "conv", or "auto": a table for
            discrete observations, convolutions for images, else an MLP.
        factory: `module:function` that makes a network of the user's own, in place of `type`; see
            `pgcore_train.adopting`.
        hidden: Widths of the hidden layers, for a network with that field; None is the network's own.
        channels: Those of a network of images, as `hidden`; so are `kernels` and `strides`.
        kernels: See `channels`.
        strides: See `channels`.
        activation: A registered name, for a network with that field, or "auto": relu for images, or if
            action values are learned off policy, else tanh.
        critic: "none", "separate", "shared", or "auto": separate for an estimator with values,
            else none.
    """

    section = "network"
    type: str = "auto"
    factory: Name | None = None
    hidden: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    kernels: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None
    activation: str = "auto"
    critic: Annotated[str, choice("auto", "none", "separate", "shared")] = "auto"

    def __post_init__(self) -> None:
        """Check the fields that `PolicySpec` does not check, and make a list of widths a tuple."""
        check_fields(self)
        # Not a declared field: networks may be registered after this module is imported.
        registry().refuse_disabled("networks", self.type)
        choice("auto", *registry().names("networks"))("network.type", self.type)
        if self.factory is not None and (self.type, self.critic) != ("auto", "auto"):
            raise SpecError(
                f"network.factory: expected neither type nor critic beside it, got type={self.type!r} "
                f"and critic={self.critic!r}; the function returns both"
            )
        # TOML has lists alone. Whether a network takes so many layers is that network's to say.
        for name in LISTS:
            widths = getattr(self, name)
            if widths is None:
                continue
            if not isinstance(widths, list | tuple):
                raise SpecError(
                    f"network.{name}: expected a list of numbers, one a layer, got {shown(widths)}; "
                    "write it as [64, 64]"
                )
            numbers = cast("list[int]", widths)
            set_field(self, name, tuple(count(f"network.{name}", number) for number in numbers))
        instance_of(str, '"tanh"')("network.activation", self.activation)


@dataclass(frozen=True, slots=True)
class RolloutSettings(Checked):
    """Section `rollout`.

    Attributes:
        envs: Environments side by side.
        length: Steps of each environment between two updates; None is 128 for several epochs, an
            optimizer of whole batches or continuous actions, 16 before a replay buffer, else 5.
        episodes: Whole episodes of each environment between two updates, in place of `length`, for
            estimators that need whole ones.
        normalise_observations: Whether observations get a running mean of 0 and deviation of 1;
            None for continuous actions alone.
        normalise_rewards: Whether rewards are divided by the running standard deviation of the
            discounted return; None for real observations and an estimator that learns values of
            states.
        action_masks: Whether masks that environments give as `info["action_mask"]` are used.
        processes: Whether each environment has a process of its own; the episodes stay the same.
    """

    section = "rollout"
    envs: Size = 8
    length: Size | None = None
    episodes: Size = 1
    # The usual values depend on estimator and spaces; see `pgcore_train.defaults.normalised`.
    normalise_observations: TomlFlag | None = None
    normalise_rewards: TomlFlag | None = None
    action_masks: TomlFlag = True
    processes: TomlFlag = False


@dataclass(frozen=True, slots=True)
class TrainingSettings(Checked):
    """Section `training`.

    Attributes:
        epochs: Passes over each batch; None is 10 for an estimator that corrects for the policy's
            change since the rollout, else 1, and 1 for an optimizer of whole batches.
        minibatch: Steps of a minibatch; None is 128 for several epochs, else the whole batch, and
            all of it for an optimizer of whole batches.
        on_divergence: At a signal, loss, gradient or parameter that would be NaN or infinite: "stop"
            before the step, "skip" it, or "shrink" its learning rate where the gradient is finite.
        shrink_attempts: Halvings of the rate before "shrink" leaves the step out.
    """

    section = "training"
    # The usual values depend on estimator and optimizer; see `pgcore_train.learning.updates.Plan`.
    epochs: Size | None = None
    minibatch: Size | None = None
    on_divergence: Annotated[str, choice("stop", "skip", "shrink")] = "stop"
    shrink_attempts: Size = 10


@dataclass(frozen=True, slots=True)
class ReplaySettings(Checked):
    """Section `replay`: a buffer of older steps, for estimators that learn off policy.

    Attributes:
        capacity: Steps that the buffer holds, 0 for none; None is 50,000 for an estimator that
            learns action values off policy, else 0.
        batch: Steps of a batch; None is 256.
        updates: Optimizer steps after each rollout, each on another batch; None is one for every
            two steps of the rollout.
        start: Steps in the buffer before the first update; None is 1,000, at most the capacity.
    """

    section = "replay"
    # The usual values depend on the estimator; see `pgcore_train.learning.replay_plan`.
    capacity: SizeFromZero | None = None
    batch: Size | None = None
    updates: Size | None = None
    start: Size | None = None


@dataclass(frozen=True, slots=True)
class TargetSettings(Checked):
    """Section `target`: a copy of the policy, the source of bootstrapped action values.

    Attributes:
        every: Optimizer steps from one copy to the next, 0 for no copy; None is 100 for an
            estimator that learns action values off policy, unless `rate` is set, else 0.
        rate: In (0, 1]. Part of the way that the copy moves towards the policy after each optimizer
            step, in place of `every`.
    """

    section = "target"
    every: SizeFromZero | None = None
    rate: Annotated[float, unit_interval, positive] | None = None

    def __post_init__(self) -> None:
        """Check the fields, and that at most one of them is set."""
        check_fields(self)
        # Two ways to follow the policy: one of them would silently win.
        if self.every is not None and self.rate is not None:
            raise SpecError(
                f"target: expected every or rate, got every={self.every} and rate={self.rate}; "
                "give one of the two"
            )


@dataclass(frozen=True, slots=True)
class ExplorationSettings(Checked):
    """Section `exploration`: the greater exploration of an epsilon-greedy policy at first.

    Attributes:
        initial_epsilon: First probability of an action other than the greedy one; None draws all
            actions with the same probability.
        fraction: In [0, 1]. Part of the run's steps in which epsilon falls linearly to
            `head.epsilon`; None is 0.2, and 0 starts there.
    """

    section = "exploration"
    initial_epsilon: UnitInterval | None = None
    fraction: UnitInterval | None = None
