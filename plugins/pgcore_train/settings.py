"""The settings that belong to training itself: one frozen dataclass for each section of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgcore.checks import count, number, one_of, positive, set_field, unit_interval
from pgcore.errors import SpecError
from pgcore.registry import default_backend_name, registry

__all__ = [
    "ExplorationSettings",
    "NetworkSettings",
    "ReplaySettings",
    "RolloutSettings",
    "RunSettings",
    "TargetSettings",
    "TrainingSettings",
    "flag",
]


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Section `run`.

    Attributes:
        backend: A registered name.
        device: Where the backend has several; None is its default.
        compiled: Whether the backend compiles what it computes, where it can choose.
        seed: At least 0; seeds parameters, actions, environments and minibatches.
        dtype: "float32" or "float64".
        steps: Environment steps to train for, all environments together; the rollout that reaches them is the last.
        stop_at: Stop when the mean return of the last 20 finished episodes reaches this; None trains for all steps.
        out: Folder of the results; None is `runs/` and the environment's name.
        evaluation_episodes: Episodes to play with the most probable actions after training; 0 plays none.
    """

    backend: str = field(default_factory=default_backend_name)
    device: str | None = None
    compiled: bool = False
    seed: int = 0
    dtype: str = "float32"
    steps: int = 100_000
    stop_at: float | None = None
    out: str | None = None
    evaluation_episodes: int = 10

    def __post_init__(self) -> None:
        """Check the fields."""
        set_field(self, "seed", count_from_zero("run.seed", self.seed))
        flag("run.compiled", self.compiled)
        one_of("run.dtype", self.dtype, ("float32", "float64"))
        set_field(self, "steps", count("run.steps", self.steps))
        set_field(self, "evaluation_episodes", count_from_zero("run.evaluation_episodes", self.evaluation_episodes))
        if self.stop_at is not None:
            set_field(self, "stop_at", number("run.stop_at", self.stop_at))
        for name in ("backend", "device", "out"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value):
                raise SpecError(f"run.{name}: expected a name, got {value!r}; give one")


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """Section `network`.

    Attributes:
        type: A registered name such as "table", "linear" or "mlp", or "auto": a table for discrete observations, else an MLP.
        hidden: Widths of the hidden layers, where the network has that field.
        activation: A registered name, where the network has that field, or "auto": relu where action values are learned off policy, else tanh.
        critic: "none", "separate", "shared", or "auto": separate where the estimator uses values, else none.
    """

    type: str = "auto"
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "auto"
    critic: str = "auto"

    def __post_init__(self) -> None:
        """Check the fields that `PolicySpec` does not check."""
        one_of("network.type", self.type, ("auto", *registry().names("networks")))
        one_of("network.critic", self.critic, ("auto", "none", "separate", "shared"))
        if isinstance(self.hidden, list):
            set_field(self, "hidden", tuple(self.hidden))


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """Section `rollout`.

    Attributes:
        envs: Environments side by side.
        length: Steps of each environment between two updates; None is 128 where an update goes over its batch several times or
            takes a trust region's step, else 16.
        episodes: Whole episodes of each environment between two updates, for estimators that want whole ones, in place of `length`.
        normalise_observations: Whether to give observations a running mean of 0 and standard deviation of 1.
        normalise_rewards: Whether to divide rewards by the running standard deviation of the discounted return.
    """

    envs: int = 8
    length: int | None = None
    episodes: int = 1
    normalise_observations: bool = False
    normalise_rewards: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("envs", "length", "episodes"):
            if (value := getattr(self, name)) is not None:
                set_field(self, name, count(f"rollout.{name}", value))
        for name in ("normalise_observations", "normalise_rewards"):
            flag(f"rollout.{name}", getattr(self, name))


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """Section `training`.

    Attributes:
        epochs: Passes over each batch; None is 10 for an estimator that corrects for the policy's change since the rollout, else 1; 1 for a trust
            region.
        minibatch: Steps of a minibatch; None is 128 where there are several epochs, else the whole batch; all of it for a trust region.
    """

    epochs: int | None = None
    minibatch: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("epochs", "minibatch"):
            if (value := getattr(self, name)) is not None:
                set_field(self, name, count(f"training.{name}", value))


@dataclass(frozen=True, slots=True)
class ReplaySettings:
    """Section `replay`: a buffer of older steps to learn from, for estimators that take another policy's steps.

    Attributes:
        capacity: Steps that the buffer holds, 0 for none; None is 50,000 for an estimator that learns action values off policy, else 0.
        batch: Steps of a batch; None is 256.
        updates: Optimizer steps after each rollout, each on a batch of its own; None is one for every two steps of the rollout.
        start: Steps that the buffer must hold before the first update; None is 1,000, or the capacity if that is less.
    """

    capacity: int | None = None
    batch: int | None = None
    updates: int | None = None
    start: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.capacity is not None:
            set_field(self, "capacity", count_from_zero("replay.capacity", self.capacity))
        for name in ("batch", "updates", "start"):
            if (value := getattr(self, name)) is not None:
                set_field(self, name, count(f"replay.{name}", value))


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """Section `target`: a copy of the policy that bootstrapped action values are taken from.

    Attributes:
        every: Optimizer steps from one copy to the next, 0 for no copy; None is 100 for an estimator that learns action values off policy,
            unless `rate` is given, else 0.
        rate: In (0, 1]. How far the copy goes towards the policy after each optimizer step, in place of `every`.
    """

    every: int | None = None
    rate: float | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        if self.every is not None:
            set_field(self, "every", count_from_zero("target.every", self.every))
        if self.rate is not None:
            unit_interval("target.rate", self.rate)
            set_field(self, "rate", positive("target.rate", self.rate))
            if self.every is not None:
                raise SpecError(
                    f"target: expected every or rate, got every={self.every} and rate={self.rate}; give one of the two"
                )


@dataclass(frozen=True, slots=True)
class ExplorationSettings:
    """Section `exploration`: how much more than its head says an epsilon-greedy policy explores at first.

    Attributes:
        initial_epsilon: The first probability of an action other than the greedy one; None draws all actions with the same probability.
        fraction: In [0, 1]. Part of the run's steps in which it falls linearly to `head.epsilon`; None is 0.2, and 0 begins with that.
    """

    initial_epsilon: float | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("initial_epsilon", "fraction"):
            if (value := getattr(self, name)) is not None:
                set_field(self, name, unit_interval(f"exploration.{name}", value))


def flag(where: str, value: object) -> None:
    """Raise SpecError unless the value is a bool."""
    if not isinstance(value, bool):
        raise SpecError(f"{where}: expected true or false, got {value!r}; give one of the two")


def count_from_zero(where: str, value: object) -> int:
    """Return the value as an int, or raise SpecError unless it is an integer of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SpecError(f"{where}: expected an integer of at least 0, got {value!r}; change this value")
    return value
