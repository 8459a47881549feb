"""Training: rollouts and updates in turn, until the goal or the last step."""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.spaces import Box
from threadpoolctl import threadpool_limits

from pgcore.api import generator
from pgcore.data.batch import Batch
from pgcore.data.networks import Table
from pgcore.errors import SpecError
from pgcore.interfaces.estimator import Estimator
from pgcore.interfaces.optimizer import Optimizer
from pgcore.validation.arrays import Array
from pgcore_train.building import make_estimator, make_optimizer, optimizer_class
from pgcore_train.config.config import RunConfig
from pgcore_train.defaults import normalised, with_usual_entropy
from pgcore_train.divergence.evidence import Evidence, Learner
from pgcore_train.divergence.guard import Guard
from pgcore_train.interrupt import Interrupt
from pgcore_train.learning.replay import Replay
from pgcore_train.learning.replay_plan import (
    ROLLOUT,
    ReplayPlan,
    learns_off_policy,
    make_exploration,
    make_target,
)
from pgcore_train.learning.updates import Plan, replay_update, update
from pgcore_train.policies import environments_of, make_policy
from pgcore_train.rollout.evaluation import evaluate
from pgcore_train.rollout.extras import RolloutExtras
from pgcore_train.rollout.normalisers import (
    Normaliser,
    ObservationNormaliser,
    RewardNormaliser,
)
from pgcore_train.rollout.rollouts import EPISODE_EXTRAS, Rollout, Rollouts
from pgcore_train.rollout.sizes import check_arrays, check_environments
from pgcore_train.run.checkpoint import (
    Checkpoint,
    adapted_fields,
    generator_state,
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


@dataclass(frozen=True, slots=True)
class Moment:
    """What a rollout changes, as it was between two updates.

    Attributes:
        random: State of the random generator, arrays by name.
        normalisers: State of each normaliser by name.
        rollouts: Gives the state of the rollouts, arrays by name.
    """

    random: dict[str, Array]
    normalisers: dict[str, dict[str, Array]]
    rollouts: Callable[[], dict[str, Array]]


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
        guard: Takes the steps, and decides on those that are not finite.
        stopped_by: The signal that ended the run, or None.
        torn: Whether a second signal ended it within an update, whose steps are done in part.
    """

    stopped_by: signal.Signals | None = None
    torn = False

    def __init__(self, config: RunConfig) -> None:
        """Build the parts of a run; no episode starts yet.

        Raises:
            PgcoreError: configuration, environment, estimator and backend do not fit together.
        """
        run = config.run
        self.history = History()
        self.estimator = self._configured = make_estimator(config)
        self.rng = generator(run.seed)
        check_environments(
            config.environment,
            config.rollout.envs,
            run.evaluation_episodes,
            processes=config.rollout.processes,
        )
        self.environments = environments_of(config, config.rollout.envs, (run.seed, TRAINING))
        self.policy = make_policy(self.environments, config, self.estimator)
        # Before anything else is built, since this error explains the most.
        self.policy.check_fits(self.estimator)
        self._rule = rule = optimizer_class(config, self.estimator)
        self.config = dataclasses.replace(config, optimizer={"name": rule.name, **config.optimizer})
        table = isinstance(self.policy.spec.network, Table)
        self.plan = Plan.of(
            config.training,
            self.estimator,
            whole_batch=rule.whole_batch,
            table=table,
            continuous=isinstance(self.environments.actions, Box),
        )
        # Not recorded: another estimator that goes on with the run may have no such bonus.
        usual = with_usual_entropy(config, self.estimator, self.policy.spec.head, self.plan)
        self._estimator_settings = usual.estimator
        self.estimator = self._configured = make_estimator(usual)

        # How much to collect for an update, and how the update uses it.
        self.whole_episodes = self.estimator.claims.whole_episodes
        recorded = EPISODE_EXTRAS if self.whole_episodes else ()
        self.extras = RolloutExtras(config.extras, self.estimator, recorded)
        length = ROLLOUT if learns_off_policy(self.estimator) else self.plan.rollout_length
        self.length = config.rollout.length or length
        self.replay_plan = ReplayPlan.of(
            config, self.estimator, self.length * self.environments.count, table=table
        )
        check_arrays(config, self.environments, self.length, self.replay_plan)
        self.replay = None if self.replay_plan is None else Replay(self.replay_plan.capacity)
        self.target = make_target(config, self.estimator, self.policy)
        self.exploration = make_exploration(config, self.policy)
        settings = config.training
        self.guard = Guard(settings.on_divergence, settings.shrink_attempts)

        self.optimizer = self.make_optimizer(self.schedule_steps(config))
        self.observations, self.rewards = self._make_normalisers()
        self._rollouts: Rollouts | None = None
        self._moment: Moment | None = None

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
        started, updating = time.perf_counter() - self.history.seconds, False
        with one_thread(), Interrupt() as interrupt:
            try:
                rollouts = self._rollouts or self.start()
                while self.history.steps < self.config.run.steps:
                    rollout = self._collect(rollouts)
                    # Ctrl-C waits for the update's end: no step is half done, no metric is lost.
                    with interrupt.deferred():
                        updating = True
                        metrics = self._update(rollout)
                        self.history.seconds = time.perf_counter() - started
                        metrics["seconds"] = round(self.history.seconds, 3)
                        self._moment = self._now(rollouts)
                        updating = False
                        after_update(metrics)
                    if self.history.reached(self.config.run.stop_at):
                        return Ending.GOAL
            except KeyboardInterrupt as stop:
                self.stopped_by = getattr(stop, "signal", None)
                self.torn = updating
                return Ending.INTERRUPT
        return Ending.STEPS

    def evaluate(self) -> Array:
        """Return [E] float64 returns of E evaluation episodes, environment units; E may be 0."""
        episodes = self.config.run.evaluation_episodes
        if episodes == 0:
            return np.empty(0)
        # Environments of its own: those of training stay in the middle of their episodes.
        entropy = (self.config.run.seed, EVALUATION, self.history.updates)
        environments = environments_of(self.config, episodes, entropy)
        limit = max(LONGEST_EVALUATION, self.config.run.steps // episodes)
        try:
            with one_thread():
                return evaluate(self.policy, environments, normalise=self.observations, limit=limit)
        finally:
            environments.close()

    def checkpoint(self) -> Checkpoint:
        """Return the state that `restore` continues from: that after the last update."""
        # A rollout that is broken off has drawn random numbers and taken steps, which count no more.
        moment = self._moment or Moment(generator_state(self.rng), self._normaliser_states(), dict)
        return Checkpoint(
            config=self.config.layer(),
            policy=self.policy.parameters(),
            optimizer=self.optimizer.state(self.policy),
            optimizer_steps=self.optimizer.steps_taken,
            estimator=adapted_fields(self._configured, self.estimator),
            normalisers=moment.normalisers,
            random=moment.random,
            history=self.history,
            rollouts=moment.rollouts(),
            replay={} if self.replay is None else self.replay.state(),
            target={} if self.target is None else self.target.state(),
        )

    def keep_evidence(self, folder: Path) -> None:
        """Let the guard write the files of a step that is not finite into a folder."""

        def table(estimator: Estimator) -> dict[str, Any]:
            return {**self._estimator_settings, **adapted_fields(self._configured, estimator)}

        self.guard.evidence = Evidence(folder, table)

    def close(self) -> None:
        """Close the environments."""
        self.environments.close()

    def start(self, state: Mapping[str, Array] | None = None) -> Rollouts:
        """Return rollouts from new episodes, or from those of a state; see `Rollouts`."""
        actor = self.policy if self.exploration is None else self.exploration
        rollouts = Rollouts(
            self.environments,
            actor,
            self.rng,
            observations=self.observations,
            rewards=self.rewards,
            state=state,
        )
        self._rollouts, self._moment = rollouts, self._now(rollouts)
        return rollouts

    def _now(self, rollouts: Rollouts) -> Moment:
        """Return what the next rollout will change, as it is."""
        return Moment(generator_state(self.rng), self._normaliser_states(), rollouts.moment())

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
        self.history.skipped += self.guard.skipped
        self.history.shrunk += self.guard.shrunk
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
        if "loss" in learned and hasattr(self.optimizer.spec, "rate"):
            learned["learning_rate"] = self.optimizer.spec.rate(self.optimizer.steps_taken - 1)
        return metrics | learned

    def _improve(self, rollout: Rollout) -> dict[str, float]:
        """Learn from a rollout, or from the buffer behind it; return the update's metrics."""
        guard, plan = self.guard, self.replay_plan
        guard.start()
        learner = Learner(self.policy, self.estimator, self.optimizer, self.target)
        # A rollout that is left out of a buffer counts as one step.
        steps = self.plan.optimizer_steps(len(rollout.fields["rewards"])) if plan is None else 1
        batch, learned = guard.batch(rollout.fields, learner, steps), dict[str, float]()
        if self.replay is None or plan is None:
            if batch is not None:
                batch = self._with_extras(batch)
                learned = update(*learner[:3], batch, self.plan, self.rng, self.target, guard=guard)
            return learned | guard.metrics
        if batch is not None:
            self.replay.add(batch)
        try:
            learned = replay_update(
                *learner[:3],
                self.replay,
                plan,
                self.rng,
                self.target,
                with_extras=self._with_extras,
                guard=guard,
            )
        except Exception:
            # A run that goes on from here plays the rollout again.
            if batch is not None:
                self.replay.undo()
            raise
        return learned | guard.metrics

    def _with_extras(self, batch: Batch) -> Batch:
        """Return a batch with the extras that functions give."""
        return self.extras.add_to(batch, self.estimator, self.policy.spec.head.width)

    def make_optimizer(self, steps: int | None) -> Optimizer:
        """Return the run's optimizer, with a schedule over so many of its steps."""
        plan = self.replay_plan or self.plan
        return make_optimizer(self.config, self._rule, steps, plan.learning_rate, plan.beta2)

    def schedule_steps(self, config: RunConfig) -> int | None:
        """Return the optimizer steps over which the learning rate falls; None for an open end."""
        # Whole episodes have no length beforehand, so a schedule of the rate has no end either.
        if self.whole_episodes:
            return None
        batch = self.length * self.environments.count
        # The rollout that reaches the last step is played to its end.
        rollouts = math.ceil((config.run.schedule_steps or config.run.steps) / batch)
        if self.replay_plan is not None:
            return self.replay_plan.optimizer_steps(rollouts, batch)
        return rollouts * self.plan.optimizer_steps(batch)

    def _make_normalisers(self) -> tuple[ObservationNormaliser | None, RewardNormaliser | None]:
        space = self.environments.observations
        own_rate = self._rule.whole_batch and hasattr(self._rule, "learning_rate")
        has_observations, has_rewards = normalised(
            self.config,
            self.environments,
            self.estimator,
            scaled=self.replay_plan is not None or own_rate,
        )
        observations = rewards = None
        if has_observations:
            if not isinstance(space, Box) or len(space.shape) != 1:
                raise SpecError(
                    "rollout.normalise_observations: expected vectors of numbers to normalise, "
                    f"got {space}; leave it off"
                )
            observations = ObservationNormaliser(space.shape[0])
        if has_rewards:
            gamma = getattr(self.estimator, "gamma", DEFAULT_GAMMA)
            rewards = RewardNormaliser(self.environments.count, gamma)
        return observations, rewards

    def _normaliser_states(self) -> dict[str, dict[str, Array]]:
        return {name: normaliser.state() for name, normaliser in self.normalisers().items()}

    def normalisers(self) -> dict[str, Normaliser]:
        """Return the normalisers of this run by their names in a checkpoint."""
        normalisers = {"observations": self.observations, "rewards": self.rewards}
        return {name: item for name, item in normalisers.items() if item is not None}


def one_thread() -> threadpool_limits:
    """Return a context with one thread of BLAS and one of OpenMP, which frameworks compute with.

    The matrices are small: threads that wait for each other cost more than they bring.
    """
    return threadpool_limits(limits=1)
