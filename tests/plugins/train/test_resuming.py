"""A run that is stopped and resumed is the run that was not stopped."""

import json
import os
import signal

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.spaces import Box, Discrete

from pgcore_train.command import run_command
from pgcore_train.rollout import episodes
from pgcore_train.run.checkpoint import load_checkpoint

# Updates of 2 environments of 25 steps: episodes of CartPole go on from one to the next.
SMALL = ["rollout.envs=2", "rollout.length=25", "run.evaluation_episodes=0", "network.hidden=[8]"]
BOTH = ["rollout.normalise_observations=true", "rollout.normalise_rewards=true"]


def train(folder, steps, environment="CartPole-v1", *settings, resume=False, **sections):
    layer = {"environment": {"name": environment}, "run": {"out": str(folder)}, **sections}
    assignments = [*SMALL, f"run.steps={steps}", *settings]
    return run_command({} if resume else layer, assignments, resume=folder if resume else None)


def outcome(folder):
    """Return all that two equal runs share: parameters, checkpoint, metrics and episodes."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    checkpoint = load_checkpoint(folder)
    arrays = {
        f"{group}.{name}": value.tolist()
        for group in ("policy", "optimizer", "random", "replay", "target", "rollouts")
        for name, value in getattr(checkpoint, group).items()
    }
    for name, state in checkpoint.normalisers.items():
        arrays |= {f"{name}.{key}": value.tolist() for key, value in state.items()}
    history = checkpoint.history
    return lines, arrays, checkpoint.estimator, history.returns, history.finished_at


CASES = {
    "ppo": ["estimator.name=ppo", *BOTH],
    "adaptive": ["estimator.name=ppo", "estimator.objective=kl", "estimator.kl_target=1e-6"],
    "replay": ["estimator.name=q_learning", "replay.start=100"],
    "whole episodes": ["estimator.name=reinforce", "rollout.episodes=1"],
}


@pytest.mark.parametrize("case", CASES)
def test_twenty_updates_and_twenty_are_forty(tmp_path, capsys, case):
    compare(tmp_path, capsys, "CartPole-v1", *CASES[case])


@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"])
def test_every_backend_goes_on_bit_by_bit(tmp_path, capsys, backend):
    pytest.importorskip(backend)
    compare(tmp_path, capsys, "CartPole-v1", f"run.backend={backend}", *BOTH)


@pytest.mark.parametrize("name", ["Pendulum-v1", "FrozenLake-v1", "Acrobot-v1"])
def test_environments_are_where_they_were(tmp_path, capsys, name):
    compare(tmp_path, capsys, name, "rollout.length=30")


def compare(tmp_path, capsys, environment, *settings):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(whole, 2000, environment, *settings) == 0
    assert train(halves, 1000, environment, *settings, "run.schedule_steps=2000") == 0
    assert train(halves, 2000, environment, *settings, resume=True) == 0
    assert capsys.readouterr().err.count("environments") == 0
    assert outcome(halves) == outcome(whole)


class Shaken(gymnasium.Env):
    """Goes where chance of its own takes it, whatever the seed."""

    observation_space = Box(-10.0, 10.0, (1,), np.float64)
    action_space = Discrete(2)
    chance = np.random.default_rng(0)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.chance.uniform(size=1), {}

    def step(self, action):
        return self.chance.uniform(size=1), 1.0, False, False, {}


@pytest.fixture
def shaken():
    gymnasium.register("Shaken-v0", f"{__name__}:Shaken", max_episode_steps=40)
    yield "Shaken-v0"
    del gymnasium.registry["Shaken-v0"]


def test_an_environment_that_cannot_be_saved_is_told(tmp_path, capsys, shaken):
    train(tmp_path, 200, shaken)
    train(tmp_path, 400, resume=True)
    said = capsys.readouterr().err
    assert "environments: 2 of 2 start new episodes, since Shaken-v0 with the checkpoint's" in said
    history = load_checkpoint(tmp_path).history
    # Those that were broken off count no return, and no episode has the steps of two.
    assert history.returns
    assert set(history.returns) == {40.0}


@pytest.mark.parametrize("envs", [1, 3])
def test_another_number_of_environments_starts_new_episodes(tmp_path, capsys, envs):
    train(tmp_path, 200, "CartPole-v1", *BOTH)
    before = load_checkpoint(tmp_path).rollouts
    train(tmp_path, 201, "CartPole-v1", f"rollout.envs={envs}", resume=True)
    assert f"environments: {envs} of {envs} start new episodes" in capsys.readouterr().err
    after = load_checkpoint(tmp_path).rollouts
    assert after["episodes"].min() > before["episodes"].max()
    assert len(after["seeds"]) == envs


def test_a_long_episode_is_not_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(episodes, "LONGEST", 10)
    train(tmp_path, 200, "Pendulum-v1")
    assert load_checkpoint(tmp_path).rollouts["actions"].shape == (10, 2, 1)
    train(tmp_path, 400, resume=True)
    assert "environments: 2 of 2 start new episodes" in capsys.readouterr().err


def test_episodes_without_an_end_take_no_memory_without_an_end(monkeypatch):
    monkeypatch.setattr(episodes, "LONGEST", 10)
    log = episodes.EpisodeLog(2, [0])
    log.begin(np.array([True, True]))
    for step in range(100):
        log.step(np.array([step, step]), np.ones(2))
        assert len(log._actions) <= 20
    state = log.moment(np.zeros((2, 1)))()
    assert state["actions"][:, 0].tolist() == [*range(90, 100)]
    assert state["returns"].tolist() == [100.0, 100.0]
    assert (state["begun"] < 0).all()


@pytest.mark.parametrize(
    ("estimator", "line"),
    [
        (
            "ppo",
            "learning rate: goes from 0 to 0.0005 here, since its schedule is one of 400 steps",
        ),
        ("q_learning", "epsilon: goes from 0.05 to"),
    ],
)
def test_more_steps_stretch_a_schedule_and_say_so(tmp_path, capsys, estimator, line):
    settings = [f"estimator.name={estimator}"]
    if estimator == "q_learning":
        settings += ["exploration.fraction=1", "replay.start=100"]
    train(tmp_path, 200, "CartPole-v1", *settings)
    train(tmp_path, 400, resume=True)
    assert line in capsys.readouterr().err
    train(tmp_path, 600, "CartPole-v1", "run.schedule_steps=400", resume=True)
    assert capsys.readouterr().err == ""


class Pressed(CartPoleEnv):
    """Sends this process a SIGINT at one of its steps."""

    left = -1

    def step(self, action):
        Pressed.left -= 1
        if Pressed.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


@pytest.fixture
def pressed():
    gymnasium.register("Pressed-v0", f"{__name__}:Pressed", max_episode_steps=500)
    yield "Pressed-v0"
    del gymnasium.registry["Pressed-v0"]


@pytest.mark.parametrize("step", [1, 333, 350])
def test_a_rollout_that_is_broken_off_leaves_no_trace(tmp_path, capsys, pressed, step):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = [*BOTH, "estimator.name=a2c"]
    assert train(whole, 1000, pressed, *settings) == 0
    Pressed.left = step
    assert train(stopped, 1000, pressed, *settings) == 130
    assert load_checkpoint(stopped).history.steps == (step - 1) // 50 * 50
    capsys.readouterr()
    assert train(stopped, 1000, resume=True) == 0
    assert capsys.readouterr().err == ""
    assert outcome(stopped) == outcome(whole)
