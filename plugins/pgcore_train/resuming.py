"""A run that goes on from a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from pgcore.errors import FileError, SpecError
from pgcore_train.config.config import RunConfig
from pgcore_train.learning.replay_plan import make_exploration
from pgcore_train.run.checkpoint import Checkpoint, restore_generator
from pgcore_train.training import Training

__all__ = ["restore"]


def restore(training: Training, checkpoint: Checkpoint) -> list[str]:
    """Continue a training from a checkpoint; return a line for each thing that is no longer as it was.

    With the checkpoint's settings the training goes on bit by bit as if it had not been stopped,
    in environments whose seed and actions decide what they do.

    Args:
        training: A new one.
        checkpoint: From `Training.checkpoint`.

    Raises:
        ParameterError: the checkpoint's policy is not of the training's shape.
        OptimizerError: its optimizer is not the training's.
        FileError: it lacks a normaliser, replay buffer or target policy of the training.
        SpecError: it already has all the steps of the training.
    """
    config, history = training.config, checkpoint.history
    if history.steps >= config.run.steps:
        raise SpecError(
            f"run.steps: expected more than the {history.steps} that the checkpoint "
            f"has behind it, got {config.run.steps}; raise --steps"
        )
    training.policy.load(checkpoint.policy)
    training.optimizer.load(training.policy, checkpoint.optimizer, checkpoint.optimizer_steps)
    # Another estimator may continue the run, but has no use for the first one's adapted fields.
    if checkpoint.config["estimator"]["name"] == config.estimator["name"]:
        estimator: Any = training.estimator
        training.estimator = dataclasses.replace(estimator, **checkpoint.estimator)
    for name, normaliser in training.normalisers().items():
        if name not in checkpoint.normalisers:
            raise FileError(
                f"checkpoint: expected statistics of {name}, got none; "
                f"leave --normalise-{name} as it was"
            )
        normaliser.load(checkpoint.normalisers[name])
    # A part that the checkpoint has and this run lacks is dropped; the reverse is an error.
    for part, owner, state in (
        ("a replay buffer", training.replay, checkpoint.replay),
        ("a target policy", training.target, checkpoint.target),
    ):
        if owner is None:
            continue
        if not state:
            raise FileError(
                f"checkpoint: expected {part}, got none; leave the run's settings as they were"
            )
        owner.load(state)
    restore_generator(training.rng, checkpoint.random)
    training.history = history
    return [
        *kept_optimizer(training, checkpoint),
        *changed_schedules(training, checkpoint),
        *changed_episodes(training, checkpoint),
    ]


def kept_optimizer(training: Training, checkpoint: Checkpoint) -> list[str]:
    """Return a line if another estimator goes on with an optimizer that is not its usual one."""
    name, usual = training.optimizer.spec.name, training.estimator.usual_optimizer
    if checkpoint.config["estimator"]["name"] == training.config.estimator["name"] or name == usual:
        return []
    estimator = training.estimator.name
    return [f"optimizer: stays {name}, with its state; the usual one of {estimator} is {usual}"]


def changed_episodes(training: Training, checkpoint: Checkpoint) -> list[str]:
    """Go on with the checkpoint's episodes; return a line if some of them do not go on."""
    # A run that was stopped before its first rollout has none, and starts as it did.
    if not checkpoint.rollouts:
        return []
    lost = training.start(checkpoint.rollouts).lost
    if not lost.any():
        return []
    name = training.config.environment["name"]
    line = (
        f"environments: {np.count_nonzero(lost)} of {len(lost)} start new episodes, since {name} "
        "with the checkpoint's seeds and actions did not end at its observations"
    )
    return [line]


def changed_schedules(training: Training, checkpoint: Checkpoint) -> list[str]:
    """Return a line for each schedule that has another value here than the checkpoint's had."""
    before = RunConfig.of(checkpoint.config)
    then, now = (each.run.schedule_steps or each.run.steps for each in (before, training.config))
    values: dict[str, list[float]] = {}
    for config in (before, training.config):
        spec = training.make_optimizer(training.schedule_steps(config)).spec
        if hasattr(spec, "rate"):
            rate = spec.rate(training.optimizer.steps_taken)
            values.setdefault("learning rate", []).append(rate)
        # Of the schedule's length alone: what else was set anew is no surprise.
        same = dataclasses.replace(training.config, run=config.run)
        if (exploration := make_exploration(same, training.policy)) is not None:
            epsilon = exploration.at(training.history.steps).epsilon
            values.setdefault("epsilon", []).append(epsilon)
    return [
        f"{name}: goes from {old:.3g} to {new:.3g} here, since its schedule is one of {now:,} "
        f"steps now and was one of {then:,}; --set run.schedule_steps={then} keeps it"
        for name, (old, new) in values.items()
        if old != new
    ]
