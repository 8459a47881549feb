"""The settings that belong to training itself: one frozen dataclass for each section of a run's configuration."""

from __future__ import annotations

from dataclasses import dataclass, field

from pgcore.checks import count, number, one_of, set_field
from pgcore.errors import SpecError
from pgcore.registry import default_backend_name

__all__ = ["NetworkSettings", "RolloutSettings", "RunSettings", "TrainingSettings", "flag"]


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
        type: "table", "linear", "mlp", or "auto": a table for discrete observations, else an MLP.
        hidden: Widths of the MLP's hidden layers.
        activation: The MLP's; "tanh", "relu" or "sigmoid".
        critic: "none", "separate", "shared", or "auto": separate where the estimator uses values, else none.
    """

    type: str = "auto"
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    critic: str = "auto"

    def __post_init__(self) -> None:
        """Check the fields that `PolicySpec` does not check."""
        one_of("network.type", self.type, ("auto", "table", "linear", "mlp"))
        one_of("network.critic", self.critic, ("auto", "none", "separate", "shared"))
        if isinstance(self.hidden, list):
            set_field(self, "hidden", tuple(self.hidden))


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """Section `rollout`.

    Attributes:
        envs: Environments side by side.
        length: Steps of each environment between two updates; None is 128 where an update goes over its batch several times, else 16.
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
        epochs: Passes over each batch; None is 10 for an estimator that corrects for the policy's change since the rollout, else 1.
        minibatch: Steps of a minibatch; None is 128 where there are several epochs, else the whole batch.
    """

    epochs: int | None = None
    minibatch: int | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        for name in ("epochs", "minibatch"):
            if (value := getattr(self, name)) is not None:
                set_field(self, name, count(f"training.{name}", value))


def flag(where: str, value: object) -> None:
    """Raise SpecError unless the value is a bool."""
    if not isinstance(value, bool):
        raise SpecError(f"{where}: expected true or false, got {value!r}; give one of the two")


def count_from_zero(where: str, value: object) -> int:
    """Return the value as an int, or raise SpecError unless it is an integer of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SpecError(f"{where}: expected an integer of at least 0, got {value!r}; change this value")
    return value
