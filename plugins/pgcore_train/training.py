"""Training: rollouts and updates in turn, until the goal or the last step."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from threadpoolctl import threadpool_limits

from pgcore.api import generator, policy
from pgcore.data.batch import Batch
from pgcore.data.networks import Table
from pgcore.errors import FileError, SpecError
from pgcore.validation.arrays import Array
from pgcore_train.building import (
    make_estimator,
    make_optimizer,
    make_spec,
    normalised,
    optimizer_class,
    with_usual_entropy,
)
from pgcore_train.config.config import RunConfig
from pgcore_train.interrupt import Interrupt
from pgcore_train.learning.replay import Replay
from pgcore_train.learning.replay_plan import (
    ROLLOUT,
    ReplayPlan,
    learns_off_policy,
    make_exploration,
    make_target,
)
from pgcore_train.learning.updates import LONG_ROLLOUT, Plan, replay_update, update
from pgcore_train.rollout.environments import make_environments
from pgcore_train.rollout.evaluation import evaluate
from pgcore_train.rollout.extras import RolloutExtras
from pgcore_train.rollout.normalisers import (
    Normaliser,
    ObservationNormaliser,
    RewardNormaliser,
)
from pgcore_train.rollout.rollouts import EPISODE_EXTRAS, Rollout, Rollouts
from pgcore_train.run.checkpoint import (
    Checkpoint,
    adapted_fields,
    generator_state,
    restore_generator,
)
from pgcore_train.run.history import History

__all__ = ["Ending", "Training"]

# Streams of environment seeds, so that evaluation plays no training episode again.
TRAINING, EVALUATION = 0, 1

# Environment steps, our choice: bounds an evaluation episode in an environment without an end.
LONGEST_EVALUATION = 10_000
# Per step, for the reward normaliser under an estimator without a discount; Gymnasium's default.
DEFAULT_GAMMA = 0.99


class Ending(Enum):
    """Why training stopped."""

    GOAL = "goal"
    STEPS = "steps"
    INTERRUPT = "interrupt"
    ERROR = "error"


class Training:
    """One run: environments, policy, estimator and optimizer with their history.

    Attributes:
        config: The run's configuration, with the optimizer's name filled in.
        policy: The policy in training.
        estimator: The current one; it may adapt after an update.
        history: Counters and finished episodes.
        replay: The replay buffer, or None.
        target: The target policy, or None.
        exploration: The behaviour policy in the policy's place, or None.
        extras: The functions that give batches the estimator's extras.
        stopped_by: The signal that ended the run, or None.
    """

    stopped_by: signal.Signals | None = None

    def __init__(self, config: RunConfig) -> None:
        """Build the parts of a run; no episode starts yet.

        Raises:
            PgcoreError: configuration, environment, estimator and backend do not fit together.
        """
        run = config.run
        self.history = History()
        self.estimator = self._configured = make_estimator(config)
        self.rng = generator(run.seed)
        self.environments = make_environments(*environment_of(config, config.rollout.envs))
        spec = make_spec(self.environments, config, self.estimator)
        self.policy = policy(
            spec,
            backend=run.backend,
            seed=run.seed,
            dtype=run.dtype,
            device=run.device,
            compiled=run.compiled,
        )
        # Before anything else is built, since this error explains the most.
        self.policy.check_fits(self.estimator)
        rule = optimizer_class(config, self.estimator)
        table = isinstance(spec.network, Table)
        if table:
            # Not recorded: another estimator that goes on with the run may have no such bonus.
            usual = with_usual_entropy(config, self.estimator, whole_batch=rule.whole_batch)
            self.estimator = self._configured = make_estimator(usual)
        self.config = dataclasses.replace(config, optimizer={"name": rule.name, **config.optimizer})
        self.plan = Plan.of(
            config.training,
            self.estimator,
            whole_batch=rule.whole_batch,
            table=table,
        )

        # How much to collect for an update, and how the update uses it.
        self.whole_episodes = self.estimator.claims.whole_episodes
        recorded = EPISODE_EXTRAS if self.whole_episodes else ()
        self.extras = RolloutExtras(config.extras, self.estimator, recorded)
        length = ROLLOUT if learns_off_policy(self.estimator) else self.plan.rollout_length
        self.length = config.rollout.length or length
        self.replay_plan = ReplayPlan.of(
            config, self.estimator, self.length * self.environments.count, table=table
        )
        self.replay = None if self.replay_plan is None else Replay(self.replay_plan.capacity)
        self.target = make_target(config, self.estimator, self.policy)
        self.exploration = make_exploration(config, self.policy)

        # Whole episodes have no length beforehand, so a schedule of the rate has no end either.
        steps = None if self.whole_episodes else self._optimizer_steps()
        plan = self.replay_plan or self.plan
        self.optimizer = make_optimizer(config, rule, steps, plan.learning_rate, plan.beta2)
        self.observations, self.rewards = self._make_normalisers()

    def run(self, after_update: Callable[[Mapping[str, float]], None]) -> Ending:
        """Train until the goal is reached, all steps are taken or the user interrupts.

        Args:
            after_update: Called with each update's metrics: `update`, `steps`, `episodes`,
                `mean_return` from the first finished episode on, `epsilon` under exploration, and
                `seconds`. From the first optimizer step on also `loss`, the estimator's metrics,
                the optimizer's `StepReport` and `learning_rate`, as far as there are any.

        Raises:
            PgcoreError: data or gradients are unfit to learn from; the policy is that of the
                update before.
        """
        # A resumed run's clock continues where its checkpoint stopped.
        started = time.perf_counter() - self.history.seconds
        with one_thread(), Interrupt() as interrupt:
            try:
                rollouts = self._start()
                while self.history.steps < self.config.run.steps:
                    rollout = self._collect(rollouts)
                    # Ctrl-C waits for the update's end: no step is half done, no metric is lost.
                    with interrupt.deferred():
                        metrics = self._update(rollout)
                        self.history.seconds = time.perf_counter() - started
                        metrics["seconds"] = round(self.history.seconds, 3)
                        after_update(metrics)
                    if self.history.reached(self.config.run.stop_at):
                        return Ending.GOAL
            except KeyboardInterrupt as stop:
                self.stopped_by = getattr(stop, "signal", None)
                return Ending.INTERRUPT
        return Ending.STEPS

    def evaluate(self) -> Array:
        """Return [E] float64 returns of E evaluation episodes, environment units; E may be 0."""
        episodes = self.config.run.evaluation_episodes
        if episodes == 0:
            return np.empty(0)
        # Environments of its own: those of training stay in the middle of their episodes.
        environments = make_environments(*environment_of(self.config, episodes))
        limit = max(LONGEST_EVALUATION, self.config.run.steps // episodes)
        seeds = self._seeds(EVALUATION, episodes)
        try:
            with one_thread():
                return evaluate(
                    self.policy, environments, seeds=seeds, normalise=self.observations, limit=limit
                )
        finally:
            environments.close()

    def checkpoint(self) -> Checkpoint:
        """Return the state that `restore` continues from."""
        return Checkpoint(
            config=self.config.layer(),
            policy=self.policy.parameters(),
            optimizer=self.optimizer.state(self.policy),
            optimizer_steps=self.optimizer.steps_taken,
            estimator=adapted_fields(self._configured, self.estimator),
            normalisers={
                name: normaliser.state() for name, normaliser in self._normalisers().items()
            },
            random=generator_state(self.rng),
            history=self.history,
            replay={} if self.replay is None else self.replay.state(),
            target={} if self.target is None else self.target.state(),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint.

        Raises:
            ParameterError: its policy is not of this configuration's shape.
            OptimizerError: its optimizer is not this configuration's.
            FileError: it lacks a normaliser, replay buffer or target policy of this configuration.
            SpecError: it already has all the steps of this configuration.
        """
        if checkpoint.history.steps >= self.config.run.steps:
            raise SpecError(
                f"run.steps: expected more than the {checkpoint.history.steps} that the checkpoint "
                f"has behind it, got {self.config.run.steps}; raise --steps"
            )
        self.policy.load(checkpoint.policy)
        self.optimizer.load(self.policy, checkpoint.optimizer, checkpoint.optimizer_steps)
        # Another estimator may continue the run, but has no use for the first one's adapted fields.
        if checkpoint.config["estimator"]["name"] == self.config.estimator["name"]:
            estimator: Any = self.estimator
            self.estimator = dataclasses.replace(estimator, **checkpoint.estimator)
        for name, normaliser in self._normalisers().items():
            if name not in checkpoint.normalisers:
                raise FileError(
                    f"checkpoint: expected statistics of {name}, got none; "
                    f"leave --normalise-{name} as it was"
                )
            normaliser.load(checkpoint.normalisers[name])
        # A part that the checkpoint has and this run lacks is dropped; the reverse is an error.
        for part, owner, state in (
            ("a replay buffer", self.replay, checkpoint.replay),
            ("a target policy", self.target, checkpoint.target),
        ):
            if owner is None:
                continue
            if not state:
                raise FileError(
                    f"checkpoint: expected {part}, got none; leave the run's settings as they were"
                )
            owner.load(state)
        restore_generator(self.rng, checkpoint.random)
        self.history = checkpoint.history

    def close(self) -> None:
        """Close the environments."""
        self.environments.close()

    def _start(self) -> Rollouts:
        seeds = self._seeds(TRAINING, self.environments.count)
        actor = self.policy if self.exploration is None else self.exploration
        return Rollouts(
            self.environments,
            actor,
            self.rng,
            seeds=seeds,
            observations=self.observations,
            rewards=self.rewards,
        )

    def _collect(self, rollouts: Rollouts) -> Rollout:
        if self.exploration is not None:
            # Before the rollout, so that all of it is played with one epsilon.
            self.exploration.at(self.history.steps)
        if self.whole_episodes:
            return rollouts.episodes(self.config.rollout.episodes, self.config.run.steps)
        return rollouts.steps(self.length)

    def _update(self, rollout: Rollout) -> dict[str, float]:
        """Update the policy and return the metrics except `seconds`."""
        learned = self._improve(rollout)
        self.estimator = self.estimator.adapted(learned)
        self.history.add(rollout)
        self.history.updates += 1
        metrics: dict[str, float] = {
            "update": self.history.updates,
            "steps": self.history.steps,
            "episodes": self.history.episodes,
        }
        if (mean := self.history.mean_return) is not None:
            metrics["mean_return"] = mean
        if self.exploration is not None:
            metrics["epsilon"] = self.exploration.epsilon
        # The rate of the step just taken; a replay buffer that is still filling took none.
        if learned and hasattr(self.optimizer.spec, "rate"):
            learned["learning_rate"] = self.optimizer.spec.rate(self.optimizer.steps_taken - 1)
        return metrics | learned

    def _improve(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout, or from the buffer behind it; return the update's metrics."""
        learner = (self.policy, self.estimator, self.optimizer)
        if self.replay is None or self.replay_plan is None:
            batch = self._with_extras(rollout.batch)
            return update(*learner, batch, self.plan, self.rng, self.target)
        self.replay.add(rollout.batch)
        return replay_update(
            *learner,
            self.replay,
            self.replay_plan,
            self.rng,
            self.target,
            with_extras=self._with_extras,
        )

    def _with_extras(self, batch: Batch) -> Batch:
        """Return a batch with the extras that functions give."""
        return self.extras.add_to(batch, self.estimator, self.policy.spec.head.width)

    def _optimizer_steps(self) -> int:
        """Return the optimizer steps of the whole run, over which the learning rate falls."""
        batch = self.length * self.environments.count
        # The rollout that reaches `run.steps` is played to its end.
        rollouts = math.ceil(self.config.run.steps / batch)
        if self.replay_plan is not None:
            return self.replay_plan.optimizer_steps(rollouts, batch)
        return rollouts * self.plan.optimizer_steps(batch)

    def _make_normalisers(self) -> tuple[ObservationNormaliser | None, RewardNormaliser | None]:
        space = self.environments.observations
        has_observations, has_rewards = normalised(
            self.config.rollout,
            self.environments,
            self.estimator,
            long=self.plan.rollout_length == LONG_ROLLOUT,
            replays=self.replay_plan is not None,
        )
        observations = rewards = None
        if has_observations:
            if not isinstance(space, Box):
                raise SpecError(
                    "rollout.normalise_observations: expected real observations to normalise, "
                    f"got {space}; leave it off"
                )
            observations = ObservationNormaliser(space.shape[0])
        if has_rewards:
            gamma = getattr(self.estimator, "gamma", DEFAULT_GAMMA)
            rewards = RewardNormaliser(self.environments.count, gamma)
        return observations, rewards

    def _normalisers(self) -> dict[str, Normaliser]:
        """Return the normalisers of this run by their names in a checkpoint."""
        normalisers = {"observations": self.observations, "rewards": self.rewards}
        return {name: item for name, item in normalisers.items() if item is not None}

    def _seeds(self, stream: int, count: int) -> list[int]:
        """Return seeds for environments; a resumed run's differ from those of its beginning."""
        sequence = np.random.SeedSequence([self.config.run.seed, stream, self.history.updates])
        return [int(seed) for seed in sequence.generate_state(count)]


def one_thread() -> threadpool_limits:
    """Return a context with one thread of BLAS and one of OpenMP, which frameworks compute with.

    The matrices are small: threads that wait for each other cost more than they bring.
    """
    return threadpool_limits(limits=1)


def environment_of(config: RunConfig, count: int) -> tuple[str, int, dict[str, object]]:
    """Return the arguments of `make_environments`."""
    arguments = dict(config.environment)
    return arguments.pop("name"), count, arguments
