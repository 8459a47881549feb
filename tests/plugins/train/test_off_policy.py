"""Runs that learn from a replay buffer: what they are built of, and that they go on where they stopped."""

import math
import os
import re
import signal

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from pgcore.errors import EstimatorError, FileError, SpecError
from pgcore_train.config.config import merge, read_toml
from pgcore_train.learning.replay_plan import ReplayPlan
from pgcore_train.resuming import restore
from pgcore_train.run.checkpoint import load_checkpoint
from pgcore_train.training import Ending


class Corridor(gymnasium.Env):
    """Four steps that start the same whatever the seed; going right is worth more the later it is done."""

    observation_space, action_space = Box(-9.0, 9.0, (2,)), Discrete(3)

    def reset(self, *, seed=None, options=None):
        self.place, self.taken = 0, 0
        return self._observe(), {}

    def step(self, action):
        self.place, self.taken = self.place + int(action) - 1, self.taken + 1
        over = self.taken == 4
        # Episodes on the right side end, those on the left are cut, so that both ways of bootstrapping are met.
        right = self.place > 0
        return (
            self._observe(),
            float(self.place * (action == 2)),
            over and right,
            over and not right,
            {},
        )

    def _observe(self):
        return np.array([self.place, self.taken], np.float32)


SMALL = {
    "rollout": {"envs": 2, "length": 8},
    "network": {"hidden": [8]},
    "replay": {"capacity": 90, "batch": 16, "updates": 5, "start": 40},
    "run": {"steps": 320, "dtype": "float64", "seed": 1},
}
TWINS = {"name": "soft_actor", "twin": True, "target_entropy": 0.6}
TARGETS = {"copied": {"every": 7}, "followed": {"rate": 0.1}, "none": {"every": 0}}


def finished(training, stop_after=None):
    """Run to the end, or as one that is interrupted after so many updates; return the metrics without the clock's."""
    metrics = []

    def after_update(found):
        metrics.append({**found, "seconds": 0.0})
        if found["update"] == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    assert training.run(after_update) is (Ending.STEPS if stop_after is None else Ending.INTERRUPT)
    return metrics


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "estimator", [{"name": "q_learning"}, {"name": "soft_actor"}, TWINS], ids=["q", "soft", "twins"]
)
@pytest.mark.parametrize("stop_after", [1, 2, 11])
def test_a_resumed_run_is_the_uninterrupted_one(
    new_training, register, tmp_path, estimator, target, stop_after
):
    """After one update the ring is empty no more but too short to learn from, after eleven it has wrapped."""
    name = register(Corridor)
    sections = SMALL | {"estimator": estimator, "target": TARGETS[target]}
    whole = new_training(name, **sections)
    expected = finished(whole)
    stopped = new_training(name, **sections)
    found = finished(stopped, stop_after)
    path = tmp_path / "checkpoint.safetensors"
    stopped.checkpoint().save(path)
    checkpoint = load_checkpoint(path)
    again = new_training(
        name, **{key: value for key, value in checkpoint.config.items() if key != "environment"}
    )
    restore(again, checkpoint)
    assert found + finished(again) == expected
    assert len(expected) == 20
    assert [("loss" in line) for line in expected] == [False, False] + [True] * 18
    for one, other in (
        (whole.policy, again.policy),
        *([] if whole.target is None else [(whole.target.policy, again.target.policy)]),
    ):
        for key, value in one.parameters().items():
            np.testing.assert_array_equal(other.parameters()[key], value, err_msg=key)
    for key, value in whole.replay.state().items():
        np.testing.assert_array_equal(again.replay.state()[key], value, err_msg=key)


@pytest.mark.parametrize("lost", ["replay", "target", "random"])
def test_each_part_of_the_checkpoint_is_needed_for_that(new_training, register, lost):
    """Without the buffer's rows, the target's parameters or the generator's state the resumed run is another one."""
    name = register(Corridor)
    sections = SMALL | {"estimator": {"name": "q_learning"}, "target": {"every": 7}}
    expected = finished(new_training(name, **sections))
    stopped, again, fresh = (new_training(name, **sections) for _ in range(3))
    finished(stopped, 11)
    checkpoint = stopped.checkpoint()
    changed = {"target": fresh.policy.parameters(), "random": fresh.checkpoint().random}
    if lost == "replay":
        checkpoint.replay["rewards"][:] = 0.0
    else:
        getattr(checkpoint, lost).update(changed[lost])
    restore(again, checkpoint)
    assert finished(again) != expected[11:]


def test_a_checkpoint_without_buffer_or_target_is_refused(new_training, register):
    name = register(Corridor)
    plain = SMALL | {
        "estimator": {"name": "q_learning"},
        "replay": {"capacity": 0},
        "target": {"every": 0},
    }
    for given, message in (
        ({"replay": {"capacity": 50}}, "a replay buffer"),
        ({"target": {"every": 5}}, "a target policy"),
    ):
        training, other = new_training(name, **plain), new_training(name, **merge(plain, given))
        with pytest.raises(
            FileError, match=f"checkpoint: expected {message}, got none; leave the run's settings"
        ):
            restore(other, training.checkpoint())


def test_a_checkpoint_of_another_capacity_is_refused(new_training, register):
    name = register(Corridor)
    training = new_training(name, **(SMALL | {"estimator": {"name": "q_learning"}}))
    finished(training)
    longer = merge(
        SMALL,
        {"estimator": {"name": "q_learning"}, "replay": {"capacity": 95}, "run": {"steps": 640}},
    )
    with pytest.raises(
        FileError,
        match=r"expected a replay buffer of capacity 95, got one of another with 90 steps",
    ):
        restore(new_training(name, **longer), training.checkpoint())


@pytest.mark.parametrize(
    ("estimator", "buffer", "target", "explores"),
    [
        ({"name": "q_learning"}, True, True, True),
        ({"name": "soft_actor"}, True, True, False),
        ({"name": "expected"}, False, False, False),
        ({"name": "vtrace"}, False, False, False),
        ({"name": "pdis"}, False, False, False),
        ({"name": "ppo"}, False, False, False),
    ],
)
def test_what_learns_action_values_off_policy_has_all_of_it(
    new_training, estimator, buffer, target, explores
):
    training = new_training("CartPole-v1", estimator=estimator)
    assert (
        training.replay is not None,
        training.target is not None,
        training.exploration is not None,
    ) == (
        buffer,
        target,
        explores,
    )


@pytest.mark.parametrize(("estimator", "rate"), [("q_learning", 2e-3), ("soft_actor", 1e-3)])
def test_defaults(new_training, estimator, rate):
    training = new_training("CartPole-v1", estimator={"name": estimator})
    assert training.replay_plan == ReplayPlan(
        50_000, batch=256, updates=64, start=1000, learning_rate=rate
    )
    assert training.optimizer.spec.rate(0) == rate


@pytest.mark.parametrize(
    ("estimator", "settings", "activation"),
    [
        ("q_learning", {}, "relu"),
        ("soft_actor", {}, "relu"),
        ("ppo", {}, "tanh"),
        ("expected", {}, "tanh"),
        ("q_learning", {"activation": "sigmoid"}, "sigmoid"),
        ("ppo", {"activation": "relu"}, "relu"),
    ],
)
def test_the_activation_is_the_usual_one_or_the_one_asked_for(
    new_training, estimator, settings, activation
):
    training = new_training("CartPole-v1", estimator={"name": estimator}, network=settings)
    assert training.policy.spec.network.activation == activation


def test_the_settings_in_the_documentation_are_the_usual_ones(new_training, request, tmp_path):
    text = (request.config.rootpath / "docs" / "training.md").read_text()
    path = tmp_path / "run.toml"
    path.write_text(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
    usual, written = (
        new_training("CartPole-v1", estimator={"name": "q_learning"}, **layer)
        for layer in ({}, read_toml(path))
    )
    assert written.config != usual.config
    assert written.replay_plan == usual.replay_plan
    assert written.target.every == usual.target.every
    assert written.policy.spec == usual.policy.spec
    assert written.optimizer.spec == usual.optimizer.spec
    for steps in (0, 5_000, 20_000):
        assert written.exploration.at(steps) == usual.exploration.at(steps)


def test_an_action_in_twenty_explores_where_nobody_says(new_training):
    for head, epsilon in (({}, 0.05), ({"epsilon": 0.3}, 0.3)):
        training = new_training("CartPole-v1", estimator={"name": "q_learning"}, head=head)
        assert training.policy.spec.head.epsilon == epsilon
        training.exploration.at(20_000)
        assert training.exploration.epsilon == epsilon


@pytest.mark.parametrize(("start", "learning"), [(1, 10), (100, 10), (101, 9), (350, 7), (5000, 1)])
def test_optimizer_steps_are_counted_from_the_first_one(start, learning):
    assert ReplayPlan(9000, 8, 3, start).optimizer_steps(10, 100) == 3 * learning


def test_the_rate_falls_to_0_over_the_updates_there_are(new_training, register):
    sections = SMALL | {"estimator": {"name": "q_learning"}, "optimizer": {"learning_rate": 1.0}}
    metrics = finished(new_training(register(Corridor), **sections))
    rates = [line["learning_rate"] for line in metrics if "learning_rate" in line]
    assert rates == pytest.approx([1.0 - (5 * update + 4) / 90 for update in range(18)])


def test_epsilon_falls_over_the_part_of_the_steps_that_is_asked_for(new_training, register):
    sections = SMALL | {"estimator": {"name": "q_learning"}, "head": {"epsilon": 0.1}}
    sections["exploration"] = {"initial_epsilon": 0.5, "fraction": 0.5}
    metrics = finished(new_training(register(Corridor), **sections))
    assert [line["epsilon"] for line in metrics[:4]] == pytest.approx([0.5, 0.46, 0.42, 0.38])
    assert [line["epsilon"] for line in metrics[10:]] == [0.1] * 10


def test_expected_has_a_target_where_it_is_asked_for(new_training, register):
    sections = SMALL | {"estimator": {"name": "expected"}, "replay": {}, "target": {"every": 4}}
    training = new_training(register(Corridor), **sections)
    finished(training)
    assert training.optimizer.steps_taken == 20
    for key, value in training.policy.parameters().items():
        np.testing.assert_array_equal(training.target.policy.parameters()[key], value, err_msg=key)


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        (
            {"estimator": {"name": "ppo"}, "replay": {"capacity": 100}},
            EstimatorError,
            "replay.capacity: expected 0 for ppo, which learns from the current policy's steps alone, got 100; leave section",
        ),
        (
            {"estimator": {"name": "expected"}, "replay": {"capacity": 100}},
            EstimatorError,
            "replay.capacity: expected 0 for expected, which learns from the current",
        ),
        (
            {"estimator": {"name": "pdis"}, "replay": {"capacity": 100}},
            EstimatorError,
            "replay.capacity: expected 0 for pdis, which learns from whole episodes, got 100",
        ),
        (
            {"estimator": {"name": "ppo"}, "replay": {"batch": 8}},
            SpecError,
            "replay.batch: expected none without a replay buffer, got 8; set replay.capacity too",
        ),
        (
            {"replay": {"capacity": 50, "start": 60}},
            SpecError,
            "replay.start: expected at most replay.capacity = 50, got 60",
        ),
        (
            {"training": {"epochs": 2}},
            SpecError,
            "training.epochs: expected none with a replay buffer, got 2; set replay.up",
        ),
        (
            {"training": {"minibatch": 8}},
            SpecError,
            "training.minibatch: expected none with a replay buffer, got 8",
        ),
        (
            {"estimator": {"name": "ppo"}, "target": {"every": 3}},
            EstimatorError,
            "target.every: expected none for ppo, which bootstraps no action values, got 3; leave section `target` out",
        ),
        (
            {"estimator": {"name": "ppo"}, "target": {"rate": 0.5}},
            EstimatorError,
            "target.rate: expected none for ppo",
        ),
        (
            {"estimator": {"name": "soft_actor"}, "exploration": {"fraction": 0.5}},
            SpecError,
            r"exploration.fraction: expected none for the head Categorical\(n=2.*, got 0.5",
        ),
        (
            {"exploration": {"initial_epsilon": 0.9}},
            SpecError,
            "EpsilonGreedy.epsilon: expected at most",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(new_training, sections, error, message):
    with pytest.raises(error, match=message):
        new_training("CartPole-v1", **({"estimator": {"name": "q_learning"}} | sections))


def test_no_buffer_where_the_capacity_is_0(new_training, register):
    sections = SMALL | {
        "estimator": {"name": "q_learning"},
        "replay": {"capacity": 0},
        "training": {"epochs": 2},
    }
    training = new_training(register(Corridor), **sections)
    finished(training)
    assert training.replay is None
    assert training.optimizer.steps_taken == 40


@pytest.mark.parametrize(
    "estimator", [{"name": "q_learning"}, {"name": "soft_actor"}, TWINS], ids=["q", "soft", "twins"]
)
def test_cartpole_is_learned_from_older_steps(new_training, estimator):
    training = new_training("CartPole-v1", estimator=estimator, run={"seed": 0, "steps": 12_000})
    finished(training)
    returns = training.history.returns
    assert np.mean(returns[:20]) < 40
    assert np.mean(returns[-20:]) > 100


def test_twin_critics_and_the_temperature_are_those_of_the_options(new_training, register):
    training = new_training(register(Corridor), **(SMALL | {"estimator": TWINS}))
    assert training.policy.spec.critic_values == "twin"
    metrics = finished(training)
    learned = [line["alpha"] for line in metrics if "alpha" in line]
    # One step of the temperature for each update, the first of them from alpha.
    assert len(learned) == len(set(learned)) == 18
    assert learned[0] == 0.2
    last = metrics[-1]
    excess = last["entropy"] - last["target_entropy"]
    assert math.isclose(training.estimator.temperature, last["alpha"] * math.exp(-0.1 * excess))


def test_a_table_of_action_values_learns_a_frozen_lake(new_training):
    training = new_training(
        "FrozenLake-v1",
        environment={"is_slippery": False},
        estimator={"name": "q_learning"},
        optimizer={"learning_rate": 0.05},
        run={"steps": 10_000},
    )
    finished(training)
    assert training.evaluate().tolist() == [1.0] * 10
