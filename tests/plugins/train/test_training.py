import dataclasses
import os
import signal

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete

from pgcore.data.spec import Linear, Table
from pgcore.errors import (
    EstimatorError,
    OptimizerError,
    SpecError,
    UnknownNameError,
    UnsupportedEnvironmentError,
)
from pgcore.interfaces.estimator import Claims
from pgcore.registry.registry import registry
from pgcore_estimators.preset_classes import ActorCritic
from pgcore_train.config.config import read_toml
from pgcore_train.resuming import restore
from pgcore_train.training import Ending, Training


def trained(training: Training) -> list[dict[str, float]]:
    """Train to the end and return the metrics of every update."""
    metrics = []
    training.run(lambda found: metrics.append(dict(found)))
    return metrics


def first_and_last(training: Training, episodes: int) -> tuple[float, float]:
    """Return the mean returns of a run's first and last episodes."""
    returns = training.history.returns
    assert len(returns) >= 3 * episodes
    return float(np.mean(returns[:episodes])), float(np.mean(returns[-episodes:]))


@pytest.mark.parametrize(("seed", "dtype"), [(0, "float32"), (1, "float64")])
def test_ppo_solves_cartpole(new_training, seed, dtype):
    training = new_training("CartPole-v1", run={"seed": seed, "stop_at": 475.0, "dtype": dtype})
    assert training.run(lambda _: None) is Ending.GOAL
    assert np.mean(training.history.returns[-20:]) >= 475
    assert training.history.steps < 60_000
    assert training.evaluate().tolist() == [500.0] * 10


@pytest.mark.parametrize("estimator", ["reinforce", "actor_critic"])
def test_other_estimators_improve_on_cartpole(new_training, estimator):
    training = new_training(
        "CartPole-v1", estimator={"name": estimator}, run={"seed": 0, "steps": 40_000}
    )
    assert training.run(lambda _: None) is Ending.STEPS
    first, last = first_and_last(training, 20)
    assert first < 40
    assert last > 150


def test_reinforce_takes_whole_episodes_and_steps_once_a_batch(new_training):
    training = new_training(
        "CartPole-v1",
        estimator={"name": "reinforce"},
        rollout={"envs": 3, "episodes": 2},
        run={"steps": 2000},
    )
    metrics = trained(training)
    assert [each["episodes"] for each in metrics] == [6 * each["update"] for each in metrics]
    assert training.optimizer.steps_taken == len(metrics) > 5


def test_a_gaussian_policy_improves_on_pendulum(new_training, request):
    layer = read_toml(request.config.rootpath / "examples" / "pendulum.toml")
    layer["run"] |= {"steps": 60_000, "seed": 0}
    training = new_training(layer["environment"]["name"], **layer)
    training.run(lambda _: None)
    first, last = first_and_last(training, 24)
    assert first < -900
    assert last > -450


def test_a_table_learns_a_frozen_lake(new_training):
    training = new_training(
        "FrozenLake-v1", environment={"is_slippery": False}, run={"seed": 0, "steps": 40_000}
    )
    assert training.policy.spec.network == Table(16)
    training.run(lambda _: None)
    assert training.evaluate().tolist() == [1.0] * 10


def test_the_same_seed_gives_the_same_run(new_training):
    runs = []
    for seed in (3, 3, 4):
        training = new_training(
            "CartPole-v1",
            run={"seed": seed, "steps": 4000},
            rollout={"normalise_observations": True},
        )
        runs.append([{**each, "seconds": 0} for each in trained(training)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_metrics_tell_of_every_update(new_training):
    training = new_training(
        "CartPole-v1",
        run={"steps": 600},
        rollout={"envs": 4, "length": 50},
        training={"epochs": 2, "minibatch": 50},
    )
    metrics = trained(training)
    assert [each["update"] for each in metrics] == [1, 2, 3]
    assert [each["steps"] for each in metrics] == [200, 400, 600]
    assert [each["episodes"] for each in metrics] == sorted(each["episodes"] for each in metrics)
    # 3 updates of 2 epochs of 4 minibatches, the rate falling linearly: the last step's is one part in 24 of the first's.
    assert [each["learning_rate"] for each in metrics] == pytest.approx(
        [1e-3 * (1 - k / 24) for k in (7, 15, 23)]
    )
    for each in metrics:
        assert {
            "loss",
            "value_loss",
            "approx_kl",
            "clip_fraction",
            "mean_return",
            "seconds",
        } < each.keys()
    assert metrics[-1]["mean_return"] == pytest.approx(np.mean(training.history.returns[-20:]))


def test_no_mean_return_before_an_episode_finished(new_training):
    metrics = trained(
        new_training("Pendulum-v1", run={"steps": 1600}, rollout={"envs": 4, "length": 100})
    )
    assert ["mean_return" in each for each in metrics] == [False, True, True, True]


def test_the_estimator_adapts(new_training):
    training = new_training(
        "CartPole-v1",
        estimator={"objective": "kl", "kl_coefficient": 1.0, "kl_target": 1e-6},
        run={"steps": 3000},
    )
    trained(training)
    assert training.estimator.kl_coefficient == 8.0


def test_the_goal_needs_twenty_episodes(new_training):
    training = new_training("CartPole-v1", run={"stop_at": 1.0}, rollout={"envs": 2, "length": 8})
    assert training.run(lambda _: None) is Ending.GOAL
    assert 20 <= training.history.episodes <= 22


class Stoppable(CartPoleEnv):
    """Sends this process what Ctrl-C sends at one of its steps."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.taken = at, 0

    def step(self, action):
        self.taken += 1
        if self.taken == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


def test_an_interrupt_leaves_the_state_of_the_last_update(new_training, register):
    name = register(Stoppable, kwargs={"at": 250})
    before = signal.getsignal(signal.SIGINT)
    training = new_training(name, rollout={"envs": 2, "length": 100})
    assert training.run(lambda _: None) is Ending.INTERRUPT
    assert signal.getsignal(signal.SIGINT) is before
    assert (training.history.updates, training.history.steps) == (2, 400)
    twin = new_training("CartPole-v1", rollout={"envs": 2, "length": 100}, run={"steps": 100_000})
    twin.run(lambda found: os.kill(os.getpid(), signal.SIGINT) if found["update"] == 2 else None)
    for parameter, value in training.policy.parameters().items():
        np.testing.assert_array_equal(value, twin.policy.parameters()[parameter])


def test_an_interrupt_during_an_update_waits_for_its_end(new_training):
    training = new_training("CartPole-v1", rollout={"envs": 2, "length": 20})
    seen = []

    def after_update(metrics):
        os.kill(os.getpid(), signal.SIGINT)
        seen.append(metrics["update"])

    assert training.run(after_update) is Ending.INTERRUPT
    assert seen == [1]
    assert training.history.updates == 1


def test_episodes_without_an_end_are_refused_where_whole_ones_are_wanted(new_training, register):
    name = register(Endless)
    with pytest.raises(UnsupportedEnvironmentError, match="give the environment a time limit"):
        new_training(name, estimator={"name": "reinforce"}, run={"steps": 400}).run(lambda _: None)


def test_evaluation_ends_where_episodes_do_not(new_training, register):
    training = new_training(register(Endless), run={"steps": 40_000, "evaluation_episodes": 2})
    assert training.evaluate().tolist() == [20_000.0] * 2


class Endless(gymnasium.Env):
    """Goes on for ever, one point a step."""

    observation_space, action_space = Box(-1.0, 1.0, (1,)), Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}


def test_evaluation_changes_nothing_and_repeats_itself(new_training):
    training = new_training(
        "CartPole-v1",
        rollout={"normalise_observations": True},
        run={"steps": 1024, "evaluation_episodes": 4},
    )
    trained(training)
    moments, random = (
        training.observations.state(),
        training.rng.bit_generator.state["state"]["counter"].tolist(),
    )
    first = training.evaluate()
    assert first.tolist() == training.evaluate().tolist()
    assert len(set(first.tolist())) > 1
    assert training.rng.bit_generator.state["state"]["counter"].tolist() == random
    for name, value in training.observations.state().items():
        np.testing.assert_array_equal(value, moments[name])


def test_no_evaluation_where_none_is_asked_for(new_training):
    assert len(new_training("CartPole-v1", run={"evaluation_episodes": 0}).evaluate()) == 0


@pytest.mark.parametrize(
    ("critic", "estimator"),
    [("separate", "ppo"), ("none", "reinforce"), ("separate", "actor_critic")],
)
def test_a_critic_where_the_estimator_uses_one(new_training, critic, estimator):
    assert new_training("CartPole-v1", estimator={"name": estimator}).policy.spec.critic == critic


def test_settings_reach_the_policy(new_training):
    training = new_training(
        "CartPole-v1",
        network={"type": "linear"},
        head={"temperature": 2.0},
        estimator={"name": "reinforce", "baseline": "value"},
    )
    assert training.policy.spec.network == Linear(4)
    assert training.policy.spec.head.temperature == 2.0
    assert training.policy.spec.critic == "separate"


def test_none_reaches_an_estimators_field(new_training):
    assert new_training("CartPole-v1", estimator={"kl_target": "none"}).estimator.kl_target is None


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"estimator": {"name": "pop"}}, UnknownNameError, "did you mean 'ppo'"),
        ({"estimator": {"clp": 0.1}}, UnknownNameError, "did you mean 'clip'"),
        (
            {"estimator": {"clip": "wide"}},
            EstimatorError,
            "PPO.clip: expected a number above 0 or math.inf, got 'wide'",
        ),
        ({"run": {"backend": "nunpy"}}, UnknownNameError, "did you mean 'numpy'"),
        ({"optimizer": {"name": "adan"}}, UnknownNameError, "did you mean 'adam'"),
        ({"optimizer": {"learning_rat": 1}}, UnknownNameError, "did you mean 'learning_rate'"),
        (
            {"optimizer": {"learning_rate": 0}},
            OptimizerError,
            "optimizer.learning_rate: expected a positive number",
        ),
        (
            {"optimizer": {"schedule": "square"}},
            OptimizerError,
            "optimizer.schedule: expected one of 'constant', 'cosine', 'linear'",
        ),
        (
            {"optimizer": {"schedule": "linear"}, "estimator": {"name": "reinforce"}},
            OptimizerError,
            "expected 'constant' for an estimator",
        ),
        (
            {"head": {"log_std": "fixed"}},
            UnknownNameError,
            "categorical field: expected a known name, got 'log_std'",
        ),
        ({"head": {"n": 3}}, UnknownNameError, "got 'n'"),
        ({"head": {"temperature": -1}}, SpecError, "Categorical.temperature"),
        (
            {"network": {"type": "table"}},
            SpecError,
            "network.type: expected linear or mlp for observations Box",
        ),
        ({"network": {"hidden": "wide"}}, SpecError, "network.hidden: expected a list of numbers"),
        (
            {"network": {"critic": "none"}},
            SpecError,
            "network.critic: expected .separate. or .shared. for ppo, which learns values",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_training(new_training, sections, error, message):
    with pytest.raises(error, match=message):
        new_training("CartPole-v1", **sections)


def test_a_table_needs_discrete_observations_and_normalisation_real_ones(new_training):
    with pytest.raises(SpecError, match=r"network.type: expected table for observations Discrete"):
        new_training("FrozenLake-v1", network={"type": "mlp"})
    with pytest.raises(
        SpecError,
        match=r"rollout.normalise_observations: expected vectors of numbers to normalise, got Discrete",
    ):
        new_training("FrozenLake-v1", rollout={"normalise_observations": True})


@dataclasses.dataclass(frozen=True)
class DiscreteOnly(ActorCritic):
    @property
    def claims(self) -> Claims:
        return dataclasses.replace(super().claims, discrete_only=True)


def test_an_estimator_and_an_environment_that_do_not_fit_are_refused(new_training, monkeypatch):
    monkeypatch.setitem(registry()._loaded, ("estimators", "actor_critic"), DiscreteOnly)
    new_training("CartPole-v1", estimator={"name": "actor_critic"})
    with pytest.raises(
        EstimatorError,
        match=r"actor_critic needs discrete actions, .*: Pendulum-v1 has Box",
    ):
        new_training("Pendulum-v1", estimator={"name": "actor_critic"})


@pytest.mark.parametrize(
    ("sections", "name", "rated"),
    [
        ({"estimator": {"name": "ppo"}}, "adam", True),
        ({"estimator": {"name": "trpo"}}, "trpo", False),
        (
            {"estimator": {"name": "trpo"}, "optimizer": {"name": "trust_region"}},
            "trust_region",
            False,
        ),
        (
            {"estimator": {"name": "actor_critic"}, "optimizer": {"name": "natural_gradient"}},
            "natural_gradient",
            True,
        ),
    ],
)
def test_an_estimator_has_its_usual_optimizer_and_another_where_asked(
    new_training, sections, name, rated
):
    training = new_training(
        "CartPole-v1", run={"steps": 256}, rollout={"envs": 2, "length": 64}, **sections
    )
    found = []
    training.run(found.append)
    assert training.optimizer.spec.name == training.config.optimizer["name"] == name
    assert ("learning_rate" in found[-1]) == rated
    assert ("step_kl" in found[-1]) == (name != "adam")


def test_a_resumed_trust_region_goes_on(new_training):
    sections = {"estimator": {"name": "trpo"}, "rollout": {"envs": 2, "length": 64}}
    training = new_training("CartPole-v1", run={"steps": 128}, **sections)
    training.run(lambda metrics: None)
    again = new_training("CartPole-v1", run={"steps": 256}, **sections)
    restore(again, training.checkpoint())
    assert again.optimizer.steps_taken == 1
    for name, value in again.optimizer.state(again.policy).items():
        np.testing.assert_array_equal(value, training.optimizer.state(training.policy)[name])


@pytest.mark.parametrize("field", ["learning_rate", "schedule", "max_grad_norm"])
def test_a_trust_region_without_a_rate_takes_none(new_training, field):
    with pytest.raises(
        UnknownNameError, match=rf"trpo hyper-parameter: expected a known name, got '{field}'"
    ):
        new_training("CartPole-v1", estimator={"name": "trpo"}, optimizer={field: 0.1})


@pytest.mark.parametrize("estimator", ["trpo", "actor_critic"])
def test_cartpole_is_learned_in_a_trust_region(new_training, estimator):
    optimizer = {"name": {"trpo": "trpo", "actor_critic": "natural_gradient"}[estimator]}
    run = {"steps": 60_000, "stop_at": 475.0}
    training = new_training(
        "CartPole-v1", run=run, estimator={"name": estimator}, optimizer=optimizer
    )
    assert training.run(lambda metrics: None) is Ending.GOAL
