"""What learning from other steps than the current policy's takes: replay buffer, target policy and exploration, where they are wanted."""

from __future__ import annotations

from dataclasses import dataclass

from pgcore import EpsilonGreedy
from pgcore.api import policy
from pgcore.errors import EstimatorError, SpecError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore_train.config.config import RunConfig
from pgcore_train.config.settings import ReplaySettings
from pgcore_train.learning.target import Target
from pgcore_train.rollout.exploration import Exploration

__all__ = ["ReplayPlan", "make_exploration", "make_target"]

ACTION_VALUES = frozenset(("action_value", "action_values"))

CAPACITY, BATCH, START = 50_000, 256, 1_000
TARGET_EVERY = 100
EXPLORING = 0.2


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """How an estimator learns from a replay buffer.

    Attributes:
        capacity: Steps of the buffer.
        batch: Steps of a batch.
        updates: Optimizer steps after each rollout.
        start: Steps that the buffer must hold before the first of them.
        learning_rate: The rate to start from where nobody says: lower where a policy learns beside the action values.
    """

    capacity: int
    batch: int
    updates: int
    start: int
    learning_rate: float = 1e-3

    @staticmethod
    def of(config: RunConfig, estimator: Estimator, rollout: int) -> ReplayPlan | None:
        """Return the plan of section `replay`, or None where there is no buffer.

        Args:
            config: The run's.
            estimator: What learns.
            rollout: Environment steps of a rollout, all environments together.

        Raises:
            EstimatorError: the estimator does not learn from such steps.
            SpecError: settings that do nothing with or without a buffer, or a start beyond the capacity.
        """
        given = config.replay
        capacity = given.capacity
        if capacity is None:
            capacity = CAPACITY if learns_off_policy(estimator) else 0
        if capacity == 0:
            refuse_useless(given)
            return None
        if why := unfit(estimator):
            raise EstimatorError(
                f"replay.capacity: expected 0 for {config.estimator['name']}, which {why}, got {capacity}; "
                "leave section `replay` out, or choose an estimator such as q_learning"
            )
        for name in ("epochs", "minibatch"):
            if getattr(config.training, name) is not None:
                raise SpecError(
                    f"training.{name}: expected none with a replay buffer, got {getattr(config.training, name)}; "
                    "set replay.updates and replay.batch"
                )
        start = min(START, capacity) if given.start is None else given.start
        if start > capacity:
            raise SpecError(
                f"replay.start: expected at most replay.capacity = {capacity}, got {start}; learning would never start"
            )
        rate = 2e-3 if ACTION_VALUES.issuperset(estimator.quantities) else 1e-3
        return ReplayPlan(
            capacity, given.batch or BATCH, given.updates or max(1, rollout // 2), start, rate
        )

    def optimizer_steps(self, rollouts: int, rollout: int) -> int:
        """Return how many optimizer steps that many rollouts of so many steps each come to, at least 1."""
        waiting = max(0, -(-self.start // rollout) - 1)
        return max(1, rollouts - waiting) * self.updates


def learns_off_policy(estimator: Estimator) -> bool:
    """Return whether an estimator learns action values from any policy's single steps, which wants a replay buffer and a target policy."""
    return not unfit(estimator) and not ACTION_VALUES.isdisjoint(estimator.quantities)


def unfit(estimator: Estimator) -> str:
    """Return why an estimator cannot learn from single steps of older policies; empty where it can."""
    if estimator.claims.off_policy == "none":
        return "learns from the current policy's steps alone"
    if estimator.claims.whole_episodes or estimator.sees_episodes:
        return "learns from whole episodes"
    return ""


def refuse_useless(given: ReplaySettings) -> None:
    """Raise SpecError where settings of a buffer are given that nobody asked for."""
    if given.capacity is not None:
        return
    for name in ("batch", "updates", "start"):
        if getattr(given, name) is not None:
            raise SpecError(
                f"replay.{name}: expected none without a replay buffer, got {getattr(given, name)}; set replay.capacity too"
            )


def make_target(config: RunConfig, estimator: Estimator, current: Policy) -> Target | None:
    """Return the target policy that section `target` describes, the current policy's equal; None where there is none.

    Raises:
        EstimatorError: one is asked for, and the estimator bootstraps no action values.
    """
    given, run = config.target, config.run
    every = given.every
    if every is None and given.rate is None:
        every = TARGET_EVERY if learns_off_policy(estimator) else 0
    if every == 0:
        return None
    if ACTION_VALUES.isdisjoint(estimator.quantities):
        name, value = ("rate", given.rate) if every is None else ("every", every)
        raise EstimatorError(
            f"target.{name}: expected none for {config.estimator['name']}, which bootstraps no action values, got {value}; "
            "leave section `target` out"
        )
    copy = policy(
        current.spec,
        backend=run.backend,
        seed=run.seed,
        dtype=run.dtype,
        device=run.device,
        compiled=run.compiled,
    )
    copy.load(current.parameters())
    return Target(copy, every=every, rate=given.rate)


def make_exploration(config: RunConfig, current: Policy) -> Exploration | None:
    """Return the exploration that section `exploration` describes; None for a head that is not epsilon-greedy, which explores by itself.

    Raises:
        SpecError: it is asked for with another head, or its first epsilon cannot be taken.
    """
    head, given = current.spec.head, config.exploration
    if isinstance(head, EpsilonGreedy):
        fraction = EXPLORING if given.fraction is None else given.fraction
        return Exploration(current, head, given.initial_epsilon, fraction * config.run.steps)
    for name in ("initial_epsilon", "fraction"):
        if getattr(given, name) is not None:
            raise SpecError(
                f"exploration.{name}: expected none for the head {head}, got {getattr(given, name)}; only an epsilon-greedy head has it"
            )
    return None
