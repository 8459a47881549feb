"""Plans for learning off policy: replay buffer, target policy and exploration."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from pgcore import EpsilonGreedy
from pgcore.errors import EstimatorError, SpecError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.policy import Policy
from pgcore_train.config.config import RunConfig
from pgcore_train.config.settings import ReplaySettings
from pgcore_train.learning.target import Target
from pgcore_train.rollout.exploration import Exploration

__all__ = [
    "ACTION_VALUES",
    "ROLLOUT",
    "ReplayPlan",
    "learns_off_policy",
    "make_exploration",
    "make_target",
]

# Quantities of which an estimator learns action values.
ACTION_VALUES = frozenset(("action_value", "action_values"))

# Steps, our choice: sized for tasks of some 100,000 steps, where DQN's million never fills.
CAPACITY, BATCH, START = 50_000, 256, 1_000
# Steps of each environment between two updates, if the buffer is the usual one.
ROLLOUT = 16
# Optimizer steps, our choice for the same tasks.
TARGET_EVERY = 100
# Part of a run's steps, our choice: the fall of epsilon.
EXPLORING = 0.2
# Per step, our choice: lower if a policy learns beside the action values.
VALUES_RATE, POLICY_RATE = 2e-3, 1e-3
# The same of a table, whose entries have no gradient in most of the steps.
TABLE_VALUES_RATE, TABLE_POLICY_RATE = 2e-2, 1e-2


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """How an estimator learns from a replay buffer.

    Attributes:
        capacity: Steps of the buffer.
        batch: Steps of a batch.
        updates: Optimizer steps after each rollout.
        start: Steps in the buffer before the first of them.
        learning_rate: Default rate at the start; lower if a policy learns beside action values.
        beta2: Default decay of the mean of squared gradients; None for the optimizer's own.
    """

    capacity: int
    batch: int
    updates: int
    start: int
    learning_rate: float = POLICY_RATE
    beta2: float | None = None

    @staticmethod
    def of(
        config: RunConfig, estimator: Estimator, rollout: int, *, table: bool = False
    ) -> ReplayPlan | None:
        """Return the plan of section `replay`, or None without a buffer.

        Args:
            config: The run's.
            estimator: The learner.
            rollout: Environment steps of a rollout, all environments together.
            table: Whether the policy is a table, with a row of parameters for each state.

        Raises:
            EstimatorError: the estimator does not learn from such steps.
            SpecError: a setting has no effect with or without a buffer, or a start is beyond the
                capacity.
        """
        settings = config.replay
        capacity = settings.capacity
        if capacity is None:
            capacity = CAPACITY if learns_off_policy(estimator) else 0
        if capacity == 0:
            refuse_useless(settings)
            return None
        check_replay(config, estimator, capacity)

        # A small buffer is full before the usual start.
        start = min(START, capacity) if settings.start is None else settings.start
        if start > capacity:
            raise SpecError(
                f"replay.start: expected at most replay.capacity = {capacity}, got {start}; "
                "learning would never start"
            )
        values, with_policy = (
            (TABLE_VALUES_RATE, TABLE_POLICY_RATE) if table else (VALUES_RATE, POLICY_RATE)
        )
        return ReplayPlan(
            capacity,
            settings.batch or BATCH,
            settings.updates or max(1, rollout // 2),
            start,
            values if ACTION_VALUES.issuperset(estimator.quantities) else with_policy,
        )

    def optimizer_steps(self, rollouts: int, rollout: int) -> int:
        """Return the optimizer steps of a run, at least 1.

        Args:
            rollouts: Number of rollouts.
            rollout: Environment steps of one rollout.
        """
        # The rollout that fills the buffer up to `start` is the first with an update.
        waiting = max(0, -(-self.start // rollout) - 1)
        return max(1, rollouts - waiting) * self.updates


def check_replay(config: RunConfig, estimator: Estimator, capacity: int) -> None:
    """Raise unless an estimator learns from a replay buffer; see `ReplayPlan.of`."""
    if reason := unfitness(estimator):
        raise EstimatorError(
            f"replay.capacity: expected 0 for {config.estimator['name']}, which {reason}, "
            f"got {capacity}; leave section `replay` out, or choose an estimator such as q_learning"
        )
    # These belong to updates on the rollout itself, of which there are none.
    for name in ("epochs", "minibatch"):
        value = getattr(config.training, name)
        if value is not None:
            raise SpecError(
                f"training.{name}: expected none with a replay buffer, got {value}; "
                "set replay.updates and replay.batch"
            )


def learns_off_policy(estimator: Estimator) -> bool:
    """Return whether an estimator learns action values from single steps of any policy.

    Such an estimator has a replay buffer and a target policy by default.
    """
    return not unfitness(estimator) and not ACTION_VALUES.isdisjoint(estimator.quantities)


def unfitness(estimator: Estimator) -> str:
    """Return why an estimator cannot learn from single steps of older policies; empty if it can."""
    if estimator.claims.off_policy == "none":
        return "learns from the current policy's steps alone"
    if estimator.claims.whole_episodes or estimator.sees_episodes:
        return "learns from whole episodes"
    return ""


def refuse_useless(settings: ReplaySettings) -> None:
    """Raise SpecError for settings of a buffer that the run does not have."""
    # An explicit capacity of 0 takes the buffer out of a file that configures it.
    if settings.capacity is not None:
        return
    for name in ("batch", "updates", "start"):
        value = getattr(settings, name)
        if value is not None:
            raise SpecError(
                f"replay.{name}: expected none without a replay buffer, got {value}; "
                "set replay.capacity too"
            )


def make_target(config: RunConfig, estimator: Estimator, current: Policy) -> Target | None:
    """Return the target policy of section `target`, equal to the current policy, or None.

    Args:
        config: The run's.
        estimator: The learner.
        current: The policy in training.

    Raises:
        EstimatorError: there is to be a target, and the estimator bootstraps no action values.
    """
    settings = config.target
    every = settings.every
    if every is None and settings.rate is None:
        every = TARGET_EVERY if learns_off_policy(estimator) else 0
    if every == 0:
        return None
    if ACTION_VALUES.isdisjoint(estimator.quantities):
        name, value = ("rate", settings.rate) if every is None else ("every", every)
        raise EstimatorError(
            f"target.{name}: expected none for {config.estimator['name']}, which bootstraps no "
            f"action values, got {value}; leave section `target` out"
        )
    # Of the same backend and device, so that its values round as the policy's do.
    return Target(copy_of(current), every=every, rate=settings.rate)


def copy_of(current: Policy) -> Policy:
    """Return a copy of a policy, or raise SpecError where its network cannot be copied."""
    try:
        return copy.deepcopy(current)
    except Exception as error:
        raise SpecError(
            f"target: expected a network that its framework can copy, got {current.spec.network} "
            f"({type(error).__name__}: {error}); see the page on backends, under Copies, or set target.every=0"
        ) from error


def make_exploration(config: RunConfig, current: Policy) -> Exploration | None:
    """Return the exploration of section `exploration`; None unless the head is epsilon-greedy.

    Args:
        config: The run's.
        current: The policy in training.

    Raises:
        SpecError: the section is set for another head, or its first epsilon cannot be taken.
    """
    head, settings = current.spec.head, config.exploration
    if isinstance(head, EpsilonGreedy):
        fraction = EXPLORING if settings.fraction is None else settings.fraction
        steps = fraction * (config.run.schedule_steps or config.run.steps)
        return Exploration(current, head, settings.initial_epsilon, steps)
    # Other heads explore through their own spread.
    for name in ("initial_epsilon", "fraction"):
        value = getattr(settings, name)
        if value is not None:
            raise SpecError(
                f"exploration.{name}: expected none for the head {head}, got {value}; "
                "only an epsilon-greedy head has it"
            )
    return None
