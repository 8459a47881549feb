"""Training: rollouts and updates in turn, until the goal or the last step."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from enum import Enum

import numpy as np
from gymnasium.spaces import Box
from threadpoolctl import threadpool_limits

from pgcore.api import generator, policy
from pgcore.errors import FileError, SpecError
from pgcore.registry.registry import registry
from pgcore.validation.arrays import Array
from pgcore_train.building import make_estimator, make_optimizer, make_spec, optimizer_class
from pgcore_train.config.config import RunConfig
from pgcore_train.interrupt import Interrupt
from pgcore_train.learning.replay import Replay
from pgcore_train.learning.replay_plan import ReplayPlan, make_exploration, make_target
from pgcore_train.learning.updates import Plan, replay_update, update
from pgcore_train.rollout.environments import make_environments
from pgcore_train.rollout.evaluation import evaluate
from pgcore_train.rollout.normalisers import ObservationNormaliser, RewardNormaliser
from pgcore_train.rollout.rollouts import Rollout, Rollouts
from pgcore_train.run.checkpoint import (
    Checkpoint,
    adapted_fields,
    generator_state,
    restore_generator,
)
from pgcore_train.run.history import History

__all__ = ["Ending", "Training"]

# Streams of environment seeds.
TRAINING, EVALUATION = 0, 1

# Steps of an evaluation episode at most, or as many as training had, so that an environment without an end does not go on for ever.
LONGEST_EVALUATION = 10_000


class Ending(Enum):
    """Why training stopped."""

    GOAL = "goal"
    STEPS = "steps"
    INTERRUPT = "interrupt"


class Training:
    """One run: environments, policy, estimator and optimizer, and what they have been through.

    Attributes:
        config: The run's configuration, the optimizer named.
        policy: What is trained.
        estimator: The current one; it may adapt after an update.
        history: Counters and finished episodes.
        replay: The replay buffer, or None.
        target: The target policy, or None.
        exploration: What plays in the policy's place, or None.
    """

    def __init__(self, config: RunConfig) -> None:
        """Build everything that the configuration describes; nothing is played yet.

        Raises:
            PgcoreError: the configuration, the environment, the estimator and the backend do not fit together.
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
        self.policy.check_fits(self.estimator)
        rule = optimizer_class(config, self.estimator)
        self.config = dataclasses.replace(config, optimizer={"name": rule.name, **config.optimizer})
        self.plan = Plan.of(config.training, self.estimator, whole_batch=rule.whole_batch)
        self.whole_episodes = self.estimator.claims.whole_episodes
        self.length = config.rollout.length or self.plan.rollout_length
        self.replay_plan = ReplayPlan.of(
            config, self.estimator, self.length * self.environments.count
        )
        self.replay = None if self.replay_plan is None else Replay(self.replay_plan.capacity)
        self.target = make_target(config, self.estimator, self.policy)
        self.exploration = make_exploration(config, self.policy)
        steps = None if self.whole_episodes else self._optimizer_steps()
        self.optimizer = make_optimizer(
            config, rule, steps, (self.replay_plan or self.plan).learning_rate
        )
        self.observations, self.rewards = self._make_normalisers()

    def run(self, after_update: Callable[[Mapping[str, float]], None]) -> Ending:
        """Train until the goal is reached, all steps are taken or the user interrupts.

        Args:
            after_update: Given each update's metrics: `update`, `steps`, `episodes`, `mean_return` from the first finished
                episode on, `epsilon` where exploration falls, then from the first optimizer step on `loss`, the estimator's own figures, a trust
                region's of its step and `learning_rate` where the optimizer has one, and `seconds`.

        Raises:
            PgcoreError: an environment or an update gave something that cannot be learned from; the policy is that of the
                update before.
        """
        started = time.perf_counter() - self.history.seconds
        with one_blas_thread(), Interrupt() as interrupt:
            try:
                rollouts = self._start()
                while self.history.steps < self.config.run.steps:
                    rollout = self._collect(rollouts)
                    with interrupt.deferred():
                        metrics = self._update(rollout)
                        self.history.seconds = time.perf_counter() - started
                        metrics["seconds"] = round(self.history.seconds, 3)
                        registry().hook.pgcore_after_update(metrics=metrics)
                        after_update(metrics)
                    if self.history.reached(self.config.run.stop_at):
                        return Ending.GOAL
            except KeyboardInterrupt:
                return Ending.INTERRUPT
        return Ending.STEPS

    def evaluate(self) -> Array:
        """Return the returns of the run's evaluation episodes, float64, environment units; none where it asks for none."""
        episodes = self.config.run.evaluation_episodes
        if episodes == 0:
            return np.empty(0)
        environments = make_environments(*environment_of(self.config, episodes))
        limit = max(LONGEST_EVALUATION, self.config.run.steps // episodes)
        seeds = self._seeds(EVALUATION, episodes)
        try:
            with one_blas_thread():
                return evaluate(
                    self.policy, environments, seeds=seeds, normalise=self.observations, limit=limit
                )
        finally:
            environments.close()

    def checkpoint(self) -> Checkpoint:
        """Return what `restore` goes on from."""
        normalisers = {"observations": self.observations, "rewards": self.rewards}
        return Checkpoint(
            config=self.config.layer(),
            policy=self.policy.parameters(),
            optimizer=self.optimizer.state(self.policy),
            optimizer_steps=self.optimizer.steps_taken,
            estimator=adapted_fields(self._configured, self.estimator),
            normalisers={
                name: each.moments.state() for name, each in normalisers.items() if each is not None
            },
            random=generator_state(self.rng),
            history=self.history,
            replay={} if self.replay is None else self.replay.state(),
            target={} if self.target is None else self.target.state(),
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            ParameterError: its policy is not of this configuration's shape.
            OptimizerError: its optimizer is not this configuration's.
            FileError: it lacks a normaliser, a replay buffer or a target policy that this configuration has.
            SpecError: it has all the steps already that this configuration asks for.
        """
        if checkpoint.history.steps >= self.config.run.steps:
            raise SpecError(
                f"run.steps: expected more than the {checkpoint.history.steps} that the checkpoint has behind it, got {self.config.run.steps}; "
                "raise --steps"
            )
        self.policy.load(checkpoint.policy)
        self.optimizer.load(self.policy, checkpoint.optimizer, checkpoint.optimizer_steps)
        if checkpoint.config["estimator"]["name"] == self.config.estimator["name"]:
            self.estimator = dataclasses.replace(self.estimator, **checkpoint.estimator)  # pyright: ignore[reportArgumentType]
        for name, normaliser in {
            "observations": self.observations,
            "rewards": self.rewards,
        }.items():
            if normaliser is not None:
                if name not in checkpoint.normalisers:
                    raise FileError(
                        f"checkpoint: expected statistics of {name}, got none; leave --normalise-{name} as it was"
                    )
                normaliser.load(checkpoint.normalisers[name])
        for what, owner, state in (
            ("a replay buffer", self.replay, checkpoint.replay),
            ("a target policy", self.target, checkpoint.target),
        ):
            if owner is not None:
                if not state:
                    raise FileError(
                        f"checkpoint: expected {what}, got none; leave the run's settings as they were"
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
            self.exploration.at(self.history.steps)
        if self.whole_episodes:
            return rollouts.episodes(self.config.rollout.episodes, self.config.run.steps)
        return rollouts.steps(self.length)

    def _update(self, rollout: Rollout) -> dict[str, float]:
        """Update the policy and return the metrics, `seconds` left out."""
        found = self._improve(rollout)
        self.estimator = self.estimator.adapted(found)
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
        if found and hasattr(self.optimizer.spec, "rate"):
            found["learning_rate"] = self.optimizer.spec.rate(self.optimizer.steps_taken - 1)
        return metrics | found

    def _improve(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout, or from the buffer that it goes into; return the update's figures, none where it has to wait."""
        if self.replay is None or self.replay_plan is None:
            return update(
                self.policy,
                self.estimator,
                self.optimizer,
                rollout.batch,
                self.plan,
                self.rng,
                self.target,
            )
        self.replay.add(rollout.batch)
        return replay_update(
            self.policy,
            self.estimator,
            self.optimizer,
            self.replay,
            self.replay_plan,
            self.rng,
            self.target,
        )

    def _optimizer_steps(self) -> int:
        batch = self.length * self.environments.count
        rollouts = math.ceil(self.config.run.steps / batch)
        if self.replay_plan is not None:
            return self.replay_plan.optimizer_steps(rollouts, batch)
        return rollouts * self.plan.optimizer_steps(batch)

    def _make_normalisers(self) -> tuple[ObservationNormaliser | None, RewardNormaliser | None]:
        settings, space = self.config.rollout, self.environments.observations
        if settings.normalise_observations and not isinstance(space, Box):
            raise SpecError(
                f"rollout.normalise_observations: expected real observations to normalise, got {space}; leave it off"
            )
        width = space.shape[0] if isinstance(space, Box) else 0
        observations = ObservationNormaliser(width) if settings.normalise_observations else None
        gamma = getattr(self.estimator, "gamma", 0.99)
        return observations, RewardNormaliser(
            self.environments.count, gamma
        ) if settings.normalise_rewards else None

    def _seeds(self, stream: int, count: int) -> list[int]:
        """Return seeds for environments; a resumed run's differ from those it began with."""
        sequence = np.random.SeedSequence([self.config.run.seed, stream, self.history.updates])
        return [int(seed) for seed in sequence.generate_state(count)]


def one_blas_thread() -> threadpool_limits:
    """Return a context with one BLAS thread: the matrices are small, and threads that wait for each other cost more than they bring."""
    return threadpool_limits(limits=1, user_api="blas")


def environment_of(config: RunConfig, count: int) -> tuple[str, int, dict[str, object]]:
    """Return what `make_environments` takes."""
    arguments = dict(config.environment)
    return arguments.pop("name"), count, arguments
