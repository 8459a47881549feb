"""One update: signals for the batch, then gradients and optimizer steps over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pgcore.api import signals
from pgcore.data.batch import Batch
from pgcore.errors import NonFiniteError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.evaluation import Evaluation
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.optimizer import Optimizer, StepReport
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import Signals
from pgcore_train.config.settings import TrainingSettings
from pgcore_train.divergence.evidence import Learner
from pgcore_train.divergence.guard import Guard
from pgcore_train.learning.replay import Replay
from pgcore_train.learning.replay_plan import ReplayPlan
from pgcore_train.learning.target import Target

__all__ = ["Plan", "replay_update", "update"]

# Passes and steps, PPO's usual choices on small tasks (Stable-Baselines3: 10 passes of 64).
EPOCHS, MINIBATCH = 10, 128
# Steps of each environment for an update: few if each is used once for a small step (5 in Mnih et
# al. 2016).
LONG_ROLLOUT, SHORT_ROLLOUT = 128, 5
# Learning rates, our choice by `benchmarks/defaults.py`: higher if a batch gets one step.
RATE_OF_MANY, RATE_OF_ONE = 1e-3, 3e-3
# One step on a long rollout of continuous actions, whose scores have no bound and vary more.
CONTINUOUS_RATE_OF_ONE = 1e-2
# Of a table, whose entries have no gradient in most of the steps.
TABLE_RATE_OF_MANY, TABLE_RATE_OF_ONE = 2e-2, 5e-2
# Decay of the mean of squared gradients if a batch gets one step, that of Mnih et al. 2016: small
# batches differ, and a longer memory of the first ones makes later steps too large.
BETA2_OF_ONE = 0.99


@dataclass(frozen=True, slots=True)
class Plan:
    """How often an update goes over its batch.

    Attributes:
        epochs: Passes.
        minibatch: Steps of a minibatch, or None for the whole batch at once.
        whole_batch: `pgcore.interfaces.optimizer.Rule.whole_batch` of the run's optimizer.
        table: Whether the policy is a table, with a row of parameters for each state.
        continuous: Whether actions are continuous.
    """

    epochs: int
    minibatch: int | None
    whole_batch: bool = False
    table: bool = False
    continuous: bool = False

    @staticmethod
    def of(
        settings: TrainingSettings,
        estimator: Estimator,
        *,
        whole_batch: bool = False,
        table: bool = False,
        continuous: bool = False,
    ) -> Plan:
        """Return the settings' plan, completed with the usual values.

        Args:
            settings: Section `training`.
            estimator: Several passes are usual if it weighs steps by pi / pi_old.
            whole_batch: Whether one pass over the whole batch is usual instead.
            table: See `Plan`.
            continuous: See `Plan`.
        """
        # Without the weights a second pass would follow the gradient of an older policy.
        corrects = "old_log_prob" in estimator.keywords and not whole_batch
        epochs = settings.epochs or (EPOCHS if corrects else 1)
        minibatch = MINIBATCH if epochs > 1 and not whole_batch else None
        minibatch = settings.minibatch or minibatch
        return Plan(epochs, minibatch, whole_batch, table, continuous)

    @property
    def rollout_length(self) -> int:
        """Usual steps of each environment to collect for an update."""
        long = self.epochs > 1 or self.whole_batch or self.continuous
        return LONG_ROLLOUT if long else SHORT_ROLLOUT

    @property
    def learning_rate(self) -> float:
        """Usual rate at the start."""
        if self.table:
            return TABLE_RATE_OF_MANY if self.epochs > 1 else TABLE_RATE_OF_ONE
        if self.epochs > 1:
            return RATE_OF_MANY
        return CONTINUOUS_RATE_OF_ONE if self.continuous else RATE_OF_ONE

    @property
    def beta2(self) -> float | None:
        """Usual decay of the mean of squared gradients; None for the optimizer's own."""
        return None if self.epochs > 1 or self.whole_batch else BETA2_OF_ONE

    def optimizer_steps(self, batch: int) -> int:
        """Return the optimizer steps of an update on a batch of that many steps."""
        return self.epochs * (1 if self.minibatch is None else -(-batch // self.minibatch))


def update(
    policy: Policy,
    estimator: Estimator,
    optimizer: Optimizer,
    batch: Batch,
    plan: Plan,
    rng: np.random.Generator,
    target: Target | None = None,
    *,
    guard: Guard | None = None,
) -> dict[str, float]:
    """Improve the policy on a batch; return the metrics of the last gradient and its step, if any was taken.

    Args:
        policy: Changed in place.
        estimator: Gives signals and gradients.
        optimizer: Of this policy.
        batch: A rollout.
        plan: Passes and minibatches.
        rng: Source of the order of minibatches.
        target: Gives bootstrapped values and follows each step, or None.
        guard: Takes the steps; None stops at the first that is not finite.

    Raises:
        BatchError: the batch lacks a field that the estimator needs.
        NonFiniteError: a signal, a quantity, the loss, a gradient or a step is NaN or infinite, and the
            guard stops there; the parameters are those before that step.
    """
    guard = guard or Guard()
    learner = Learner(policy, estimator, optimizer, target)
    try:
        # The critic of this moment is the old one of every pass.
        if "value" in estimator.quantities:
            critic = Evaluation(policy, batch)("value", "final_value")
            batch = batch.record(critic["value"], critic["final_value"])
        # Once for all passes: advantages and old log-probabilities are the behaviour policy's.
        constants = signals(
            policy, estimator, batch, target=None if target is None else target.policy
        )
    except NonFiniteError as error:
        guard.skip(error, learner, batch, steps=plan.optimizer_steps(batch.num_steps))
        return {}
    last: tuple[Gradient, StepReport | None] | None = None
    for _ in range(plan.epochs):
        if plan.minibatch is None or plan.minibatch >= batch.num_steps:
            last = guard.step(learner, batch, constants) or last
            continue
        for part, values in minibatches(estimator, batch, constants, plan.minibatch, rng):
            last = guard.step(learner, part, values) or last
    return metrics_of(last)


def replay_update(
    policy: Policy,
    estimator: Estimator,
    optimizer: Optimizer,
    replay: Replay,
    plan: ReplayPlan,
    rng: np.random.Generator,
    target: Target | None = None,
    *,
    with_extras: Callable[[Batch], Batch] | None = None,
    guard: Guard | None = None,
) -> dict[str, float]:
    """Improve the policy on batches of a replay buffer; see `update`.

    Args:
        policy: See `update`.
        estimator: See `update`.
        optimizer: See `update`.
        replay: The buffer.
        plan: Number and size of batches.
        rng: Source of the drawn steps.
        target: See `update`.
        with_extras: Adds the estimator's extras to each batch.
        guard: See `update`.

    Returns:
        As `update`; empty before the buffer holds `plan.start` steps.
    """
    if replay.size < plan.start:
        return {}
    guard = guard or Guard()
    learner = Learner(policy, estimator, optimizer, target)
    last: tuple[Gradient, StepReport | None] | None = None
    for _ in range(plan.updates):
        # Signals of each batch anew: they bootstrap from the policy or target of this moment.
        batch = replay.sample(plan.batch, rng)
        if with_extras is not None:
            batch = with_extras(batch)
        last = guard.step(learner, batch) or last
    return metrics_of(last)


def metrics_of(step: tuple[Gradient, StepReport | None] | None) -> dict[str, float]:
    """Return the metrics of a gradient and its step; none of no step."""
    if step is None:
        return {}
    direction, report = step
    return direction.metrics | ({} if report is None else report.metrics)


def minibatches(
    estimator: Estimator, batch: Batch, constants: Signals, size: int, rng: np.random.Generator
) -> Iterator[tuple[Batch, Signals]]:
    """Yield the parts of one pass in random order, `size` steps each.

    For an estimator that sees episodes these are whole episodes of about as many steps.
    """
    if not estimator.sees_episodes:
        for index in batch.minibatches(size, rng):
            yield batch.steps(index), constants.steps(index)
        return
    # A part begins with the episode whose last step reaches another multiple of `size`.
    order = rng.permutation(batch.num_episodes)
    full = batch.episode_lengths[order].cumsum() // size
    for index in np.split(order, np.flatnonzero(np.diff(full)) + 1):
        yield batch.episodes(index), constants.episodes(batch, index)
