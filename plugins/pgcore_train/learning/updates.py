"""One update: signals for the batch, then gradients and optimizer steps over it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pgcore.api import gradient, signals
from pgcore.data.batch import Batch
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.gradient import Gradient
from pgcore.interfaces.optimizer import Optimizer, StepReport
from pgcore.interfaces.policy import Policy
from pgcore.interfaces.signals import Signals
from pgcore_train.config.settings import TrainingSettings
from pgcore_train.learning.replay import Replay
from pgcore_train.learning.replay_plan import ReplayPlan
from pgcore_train.learning.target import Target

__all__ = ["Plan", "replay_update", "update"]

EPOCHS = 10
MINIBATCH = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """How often an update goes over its batch.

    Attributes:
        epochs: Passes.
        minibatch: Steps of a minibatch, or None for the whole batch at once.
        whole_batch: Whether the optimizer means a step to have all of a batch; see `pgcore.interfaces.optimizer.Rule`.
    """

    epochs: int
    minibatch: int | None
    whole_batch: bool = False

    @staticmethod
    def of(settings: TrainingSettings, estimator: Estimator, *, whole_batch: bool = False) -> Plan:
        """Return the settings' plan, or where they leave it open the usual one.

        That is several passes where the estimator weighs steps by pi / pi_old, but one over the whole batch where the optimizer wants that.
        """
        corrects = "old_log_prob" in estimator.keywords and not whole_batch
        epochs = settings.epochs or (EPOCHS if corrects else 1)
        minibatch = MINIBATCH if epochs > 1 and not whole_batch else None
        return Plan(epochs, settings.minibatch or minibatch, whole_batch=whole_batch)

    @property
    def rollout_length(self) -> int:
        """Steps of each environment to collect for an update where nobody says: few where each is used once for a small step."""
        return 128 if self.epochs > 1 or self.whole_batch else 16

    @property
    def learning_rate(self) -> float:
        """The rate to start from where nobody says: higher where a batch gets one step."""
        return 1e-3 if self.epochs > 1 else 3e-3

    def optimizer_steps(self, batch: int) -> int:
        """Return how many optimizer steps an update on a batch of that many steps takes."""
        return self.epochs * (1 if self.minibatch is None else -(-batch // self.minibatch))


def update(
    policy: Policy,
    estimator: Estimator,
    optimizer: Optimizer,
    batch: Batch,
    plan: Plan,
    rng: np.random.Generator,
    target: Target | None = None,
) -> dict[str, float]:
    """Improve the policy on a batch and return the last gradient's metrics, and those of the last step where it has any.

    A target policy gives the batch's constants and then follows each step.

    Raises:
        BatchError: the batch lacks what the estimator needs.
        NonFiniteError: a signal, a quantity or a gradient is NaN or infinite; the parameters are those before that step.
    """
    constants = signals(policy, estimator, batch, target=None if target is None else target.policy)
    last: Gradient | None = None
    report: StepReport | None = None
    for _ in range(plan.epochs):
        if plan.minibatch is None or plan.minibatch >= batch.num_steps:
            last = gradient(policy, estimator, batch, signals=constants)
            report = step(policy, optimizer, last, target)
            continue
        for part, own in minibatches(estimator, batch, constants, plan.minibatch, rng):
            last = gradient(policy, estimator, part, signals=own)
            report = step(policy, optimizer, last, target)
    assert last is not None
    return last.metrics | ({} if report is None else report.metrics)


def replay_update(
    policy: Policy,
    estimator: Estimator,
    optimizer: Optimizer,
    replay: Replay,
    plan: ReplayPlan,
    rng: np.random.Generator,
    target: Target | None = None,
) -> dict[str, float]:
    """Improve the policy on batches from a replay buffer and return what `update` returns; nothing before the buffer holds enough.

    Raises:
        NonFiniteError: a signal, a quantity or a gradient is NaN or infinite; the parameters are those before that step.
    """
    if replay.size < plan.start:
        return {}
    last: Gradient | None = None
    report: StepReport | None = None
    for _ in range(plan.updates):
        batch = replay.sample(plan.batch, rng)
        last = gradient(policy, estimator, batch, target=None if target is None else target.policy)
        report = step(policy, optimizer, last, target)
    assert last is not None
    return last.metrics | ({} if report is None else report.metrics)


def step(
    policy: Policy, optimizer: Optimizer, given: Gradient, target: Target | None
) -> StepReport | None:
    """Take an optimizer step, which the target policy follows."""
    report = optimizer.step(policy, given)
    if target is not None:
        target.follow(policy, optimizer.steps_taken)
    return report


def minibatches(
    estimator: Estimator, batch: Batch, constants: Signals, size: int, rng: np.random.Generator
) -> Iterator[tuple[Batch, Signals]]:
    """Yield the parts of one pass in random order: single steps, or whole episodes of about as many for an estimator that sees them."""
    if not estimator.sees_episodes:
        for index in batch.minibatches(size, rng):
            yield batch.steps(index), constants.steps(index)
        return
    order = rng.permutation(batch.num_episodes)
    full = batch.episode_lengths[order].cumsum() // size
    for index in np.split(order, np.flatnonzero(np.diff(full)) + 1):
        yield batch.episodes(index), constants.episodes(batch, index)
